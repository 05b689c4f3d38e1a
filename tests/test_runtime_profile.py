"""`profile` and the figures it is made of: what is there, what it is computed from, what JSON can hold. No timings."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import TASKS, Weights, images, write_image_bundle, write_layer_bundle

from mingle_edge_runtime import EdgeError, ImageError
from mingle_edge_runtime import memory as memory_module
from mingle_edge_runtime import profile as profile_module
from mingle_edge_runtime.machine import machine_record
from mingle_edge_runtime.memory import process_memory
from mingle_edge_runtime.profile import profile


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """One bundle of each scope."""
    root = tmp_path_factory.mktemp("bundles")
    return {
        "image": write_image_bundle(root / "image", Weights()),
        "layer": write_layer_bundle(root / "layer", Weights()),
    }


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_a_profile_is_complete_and_json(bundles, scope: str) -> None:
    ticks: list[tuple[int, int]] = []
    report = profile(bundles[scope], runs=6, threads=1, batch_sizes=(1, 3), progress=lambda *tick: ticks.append(tick))
    assert json.dumps(json.loads(json.dumps(report))) == json.dumps(report)
    assert report["bundle"]["tasks"] == list(TASKS)
    assert report["settings"] == {"runs": 6, "threads": 1, "providers": ["CPUExecutionProvider"], "images": 4}
    assert set(report["latency"]) == {"named", "routed", "dense"}
    for found in report["latency"].values():
        assert 0 < found["p50"] <= found["p90"] <= found["p95"] <= found["p99"]
    assert set(report["ratio_to_dense"]) == {"named", "routed"}
    for found in report["ratio_to_dense"].values():
        assert 0 < found["quartiles"][0] <= found["quartiles"][1]
    assert [row["batch"] for row in report["images_per_second"]] == [1, 3]
    assert list(report["memory"]) == ["before", "opened", "first_run", "steady"]
    assert report["experts"]["bytes_loaded"] > 0
    assert ticks == [(i, 3 * (6 + 5)) for i in range(1, 3 * (6 + 5) + 1)]


def test_without_dense_nothing_is_compared(bundles) -> None:
    report = profile(bundles["image"], images(0, 1), runs=2, against_dense=False, batch_sizes=())
    assert set(report["latency"]) == {"named", "routed"}
    assert report["ratio_to_dense"] == {}
    assert report["settings"]["images"] == 2


def test_expert_traffic_under_a_budget_is_reported(bundles) -> None:
    size = next(iter(profile(bundles["image"], runs=1, against_dense=False)["bundle"]["expert_bytes"].values()))
    experts = profile(bundles["image"], runs=9, against_dense=False, expert_budget=size)["experts"]
    assert experts["evictions"] > 0
    assert experts["peak_bytes"] <= experts["budget"] == size
    assert experts["bytes_loaded"] == experts["misses"] * size


def test_ratios_are_of_medians_with_the_spread_of_neighbours(bundles, monkeypatch) -> None:
    seconds = iter([0.1] * 1000)
    monkeypatch.setattr(profile_module, "_seconds", lambda call, *arguments: (call(*arguments), next(seconds))[1])
    report = profile(bundles["image"], runs=5)
    assert report["ratio_to_dense"]["named"] == {"ratio": 1.0, "quartiles": [1.0, 1.0]}
    assert report["images_per_second"][-1] == {"batch": 16} | dict.fromkeys(["named", "routed", "dense"], pytest.approx(160))


def test_nothing_to_measure_is_refused(bundles) -> None:
    with pytest.raises(EdgeError, match=r"runs is 0 and batch_sizes \[1, 4, 16\]: all must be at least 1"):
        profile(bundles["image"], runs=0)
    with pytest.raises(ImageError, match="there is no image to profile with"):
        profile(bundles["image"], images=[])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux splits a process's memory by what backs it")
def test_memory_is_split_by_what_backs_it(tmp_path) -> None:
    size = 64 << 20  # bytes, large against what else comes and goes
    before = process_memory()
    array = np.ones(size, np.uint8)
    anonymous = process_memory()
    array.tofile(tmp_path / "file")
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        assert np.frombuffer(mapping, np.uint8).sum() == size
        mapped = process_memory()
    assert anonymous.anonymous - before.anonymous == pytest.approx(size, rel=0.1)
    assert mapped.file - anonymous.file == pytest.approx(size, rel=0.1)
    assert mapped.resident - before.resident == pytest.approx(2 * size, rel=0.1)


def test_other_systems_report_the_peak_and_say_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(memory_module, "_STATUS", tmp_path / "absent")
    found = process_memory()
    assert found.anonymous is found.file is None
    assert found.resident > 1 << 20
    assert "peak" in found.source


def test_the_machine_is_described() -> None:
    record = machine_record()
    assert json.loads(json.dumps(record)) == record
    assert record["cpu"]
    assert record["memory_bytes"] > 1 << 28
    assert 1 <= record["usable_cores"] <= record["logical_cores"]
