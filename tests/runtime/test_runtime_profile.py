"""`profile` and the figures it is made of: what is there, what it is computed from, what its file can hold. No timings."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import GOLDEN_IMAGES, SPEC, TASKS, images

from mingle_edge_runtime import Bundle, EdgeError, ImageError
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort import processor_time as processor_time_module
from mingle_edge_runtime.ort.machine import machine_record
from mingle_edge_runtime.ort.memory import process_memory
from mingle_edge_runtime.ort.processor import read_processor
from mingle_edge_runtime.ort.processor_time import ProcessorTime, processor_time
from mingle_edge_runtime.ort.session import CPU
from mingle_edge_runtime.profile import BASELINES, ProfileInterrupted, ProfileReport, measurement, profile
from mingle_edge_runtime.profile import report as records
from mingle_edge_runtime.profile.interleaving import Requests
from mingle_edge_runtime.profile.sweep import open_setting, plan_sweep

DOCUMENT = Path(__file__).parents[2] / "docs/profile-report.md"


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_a_profile_is_complete_and_survives_json(profile_of, tmp_path, scope: str) -> None:
    report, ticks = profile_of(scope)
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    assert ProfileReport.read(tmp_path / "report.json") == report
    (tmp_path / "later.json").write_text(json.dumps(report.to_json() | {"later": 1}))
    assert ProfileReport.read(tmp_path / "later.json") == report
    assert report.complete
    assert report.bundle.tasks == TASKS
    assert set(report.latency) == {"named", "routed", *BASELINES}
    for latency in report.latency.values():
        assert 0 < latency.p50 <= latency.p90 <= latency.p95 <= latency.p99
        assert len(latency.seconds) == 8
        assert latency.seconds == tuple(round(seconds, 7) for seconds in latency.seconds)
    assert set(report.ratios) == set(report.residence) - {"bundle"} == set(BASELINES)
    assert all(set(ratios) == {"named", "routed"} for ratios in report.ratios.values())
    assert set(report.switches) == {"named", "separate-models", "reload"}
    assert [(batch.batch, set(batch.latency)) for batch in report.batches] == [(3, set(report.latency))]
    assert list(report.memory) == ["imported", "before", "opened", "first_run", "routed", "steady"]
    assert [(row.axis, row.value) for row in report.sweep if row.axis != "precision"] == [
        *[("batch", "1"), ("batch", "2"), ("top-k", "1"), ("top-k", "2"), ("top-k", "3"), ("budget", "all")],
        *[("budget", str(sum(report.bundle.expert_bytes.values()) // 2)), ("budget", str(report.bundle.expert_bytes["red"]))],
    ]
    assert all(set(row.latency) == ({"routed"} if row.axis == "top-k" else {"named", "routed"}) for row in report.sweep)
    assert [bool(row.ratios) for row in report.sweep if row.axis == "precision"] == [False, True]
    for phase in {name for name, _, _ in ticks}:
        total = next(total for name, _, total in ticks if name == phase)
        assert [tick for tick in ticks if tick[0] == phase] == [(phase, i, total) for i in range(1, total + 1)]


def test_threads_are_swept_without_baselines(image_bundle) -> None:
    report = profile(image_bundle, images(0, 1), runs=2, against=(), sweep={"threads": [1, 2]}, batch_sizes=())
    assert [(row.axis, row.value, set(row.ratios)) for row in report.sweep] == [
        ("threads", "1", set()),
        ("threads", "2", {"named", "routed"}),
    ]
    assert set(report.latency) == {"named", "routed"}
    assert report.ratios == {}
    assert report.settings.images == 2
    assert report.settings.batch_sizes == (1,)


def test_traffic_follows_the_images_and_the_budget(image_bundle) -> None:
    size = Bundle.open(image_bundle).index.tasks[0].expert_bytes
    report = profile(image_bundle, images(0, 0, 1, 3, 0), runs=5, against=(), expert_budget=size)
    assert [run.tasks for run in report.traffic] == [("red",), ("red",), ("green",), (), ("red",)]
    assert [run.misses for run in report.traffic] == [1, 0, 1, 0, 1]
    assert [run.hits for run in report.traffic] == [0, 1, 0, 0, 0]
    assert [run.evictions for run in report.traffic] == [0, 0, 1, 0, 1]
    assert [run.bytes_loaded for run in report.traffic] == [size, 0, size, 0, size]
    assert [run.resident_bytes for run in report.traffic] == [size] * 5
    assert report.experts is not None
    assert report.experts.peak_bytes == report.experts.budget == size
    assert report.experts.bytes_loaded == report.experts.misses * size
    assert any("1 of 5 routed runs used no expert" in note for note in report.notes)


@pytest.mark.parametrize("phase", ["traffic", "warm-up", "open dense", "batch 1", "batch 4", "operators", "sweep batch"])
def test_an_interrupted_profile_keeps_what_was_measured(image_bundle, tmp_path, phase: str) -> None:
    def progress(name: str, done: int, total: int) -> None:
        if name == phase and done == min(total, 11):
            raise KeyboardInterrupt

    settings = {"operators": True, "sweep": {"batch": [1, 2, 4]}, "batch_sizes": (1, 4)}
    with pytest.raises(ProfileInterrupted) as interrupted:
        profile(image_bundle, runs=5, **settings, progress=progress)
    report = interrupted.value.report
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    assert ProfileReport.read(tmp_path / "report.json") == report
    assert not report.complete
    assert report.traffic
    finished = {"batch 4", "operators", "sweep batch"}
    assert len({len(latency.seconds) for latency in report.latency.values()}) <= 1
    if phase in finished:
        assert {len(latency.seconds) for latency in report.latency.values()} == {5}
    elif phase == "batch 1":
        assert {len(latency.seconds) for latency in report.latency.values()} == {3}
    else:
        assert report.latency == {}


def test_top_k_of_the_image_scope_mixes_every_image(image_bundle) -> None:
    bundle = Bundle.open(image_bundle)
    (settings,) = plan_sweep({"top-k": [1, 2]}, bundle, 1, None, low_memory=False)
    pixels = preprocess(GOLDEN_IMAGES, SPEC)
    kinds, _ = open_setting(settings[1], [CPU], pixels, Requests(3), lambda: None)
    routes = kinds["routed"](pixels, 0)
    assert [len(route.tasks) for route in routes] == [2, 2, 2, 2]  # the black one, too, which no task claims


@pytest.mark.parametrize(
    ("axes", "fixed", "message"),
    [
        ({"power": []}, {}, r"there is no axis 'power' to sweep; choose from threads, batch"),
        ({"threads": []}, {"threads": 2}, r"threads is fixed at 2 and swept at the same time"),
        ({"budget": []}, {"expert_budget": 10**6}, r"budget is fixed at 1000000 and swept"),
        ({"batch": [4]}, {}, r"sweeping batch needs at least two different values, has 4: name them, as in batch=1,2"),
        ({"batch": [4, 4]}, {}, r"two different values, has 4, 4"),
        ({"batch": [1, 0]}, {}, r"batch is swept over 0: its values must be whole numbers of at least 1"),
        ({"threads": [1, None]}, {}, r"threads is swept over None"),
        ({"top-k": [1, 4]}, {}, r"top-k is swept over 4, the bundle has 3 tasks: name smaller ones"),
        ({"budget": [None, 1000]}, {}, r"an expert budget of 1000 bytes is too small"),
        ({"top-k": [1, 3]}, {"expert_budget": 2000}, r"an expert budget of 2000 bytes is too small"),
        ({"precision": []}, {}, r"name other bundles, as in precision=OTHER"),
        ({"precision": ["nowhere"]}, {}, r"nowhere/bundle.json does not exist"),
    ],
)
def test_sweeps_that_say_nothing_are_refused_before_any_work(image_bundle, axes, fixed, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        profile(image_bundle, sweep=axes, progress=pytest.fail, **fixed)


def test_nothing_to_measure_is_refused(image_bundle) -> None:
    with pytest.raises(EdgeError, match=r"runs is 0, switch_every 1, batch_sizes \[1, 4, 16\]: all must be at least 1"):
        profile(image_bundle, runs=0)
    with pytest.raises(EdgeError, match=r"cool_down is -1, must be a number of seconds"):
        profile(image_bundle, cool_down=-1)
    with pytest.raises(ImageError, match="there is no image to profile with"):
        profile(image_bundle, images=[])


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


def test_other_systems_report_the_peak_and_say_so(monkeypatch) -> None:
    def absent(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    memory = process_memory()
    assert memory.anonymous is memory.file is None
    assert memory.resident > 1 << 20
    assert "peak" in memory.source


FIRST_SESSION = """
import json, sys
from mingle_edge_runtime.profile import profile
report = profile(sys.argv[1], runs=1, against=("dense",), batch_sizes=(), threads=1)
memory = {name: ready.memory.resident for name, ready in report.residence.items()}
print(json.dumps([report.memory["before"].resident - report.memory["imported"].resident, memory]))
"""


def test_the_start_of_onnxruntime_counts_for_neither_the_bundle_nor_a_baseline(image_bundle) -> None:
    """In a process of its own: in this one ONNX Runtime started long ago. The tiny bundle itself takes next to nothing."""
    result = subprocess.run([sys.executable, "-c", FIRST_SESSION, image_bundle], capture_output=True, text=True, check=True)
    start, memory = json.loads(result.stdout)
    assert start > 6e6  # bytes
    assert abs(memory["bundle"] - memory["dense"]) < 3e6


STAT = """cpu  900 0 0 900 0 0 0 0 0 0
cpu0 100 10 20 500 30 4 6 40 5 0
cpu1 200 0 0 100 0 0 0 0 0 0
cpu3 {user} 0 0 {idle} 0 0 0 {stolen} 0 0
intr 12
"""


class TestContention:
    """Who else used the cores: from the system's counters, in hundredths of a second."""

    @pytest.fixture
    def counters(self, monkeypatch, tmp_path):
        """A function that sets the counters of core 3, and the seconds of this process, which may use cores 0 and 3."""
        monkeypatch.setattr(processor_time_module, "_STAT", tmp_path / "stat")
        monkeypatch.setattr(processor_time_module.os, "sched_getaffinity", lambda process: {0, 3})
        monkeypatch.setattr(processor_time_module.os, "sysconf", lambda name: 100)

        def told(user: int, idle: int, stolen: int, own: float) -> None:
            (tmp_path / "stat").write_text(STAT.format(user=user, idle=idle, stolen=stolen))
            monkeypatch.setattr(processor_time_module.os, "times", lambda: os.times_result((own, 0.0, 9.0, 9.0, 0.0)))

        return told

    def test_the_cores_that_may_be_used_are_counted_alone(self, counters) -> None:
        counters(100, 50, 10, own=0.5)
        assert processor_time() == ProcessorTime(*(pytest.approx(seconds) for seconds in (8.7, 2.4, 0.5, 0.5)))

    def test_what_is_neither_idle_nor_ours_is_of_others(self, counters) -> None:
        counters(0, 0, 0, own=1.0)
        began = processor_time()
        counters(700, 200, 100, own=5.0)
        assert measurement._contention(began) == records.Contention(0.3, 0.1)

    def test_a_moment_or_another_system_tells_nothing(self, counters, tmp_path) -> None:
        counters(0, 0, 0, own=1.0)
        began = processor_time()
        counters(90, 0, 0, own=1.0)
        assert measurement._contention(began) is None
        for text in ("cpu  1 2 3\n", "cpu0 1 2 3\ncpu3 1\n", ""):
            (tmp_path / "stat").write_text(text)
            assert processor_time() is None
        (tmp_path / "stat").unlink()
        assert processor_time() is None
        assert measurement._contention(began) is None

    def test_this_machine_tells(self) -> None:
        before = processor_time()
        while processor_time().own < before.own + 0.05:
            pass
        spent = processor_time().since(before)
        assert spent.own >= 0.05
        assert 0 <= spent.busy <= spent.total + 1e-6


def test_the_machine_is_described() -> None:
    record = machine_record()
    assert json.loads(json.dumps(record)) == record
    processor = read_processor()
    assert record["cpu"] == processor.name
    assert tuple(record["instruction_sets"]) == processor.instruction_sets
    assert record["memory_bytes"] > 1 << 28
    assert 1 <= record["usable_cores"] <= record["logical_cores"]


def test_the_specification_names_every_member_and_marks_those_that_may_be_left_out() -> None:
    sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    pattern = r"^\| `(\w+)` \|[^|]*\| (\*optional\*)?"
    assert {section.splitlines()[0]: re.findall(pattern, section, re.MULTILINE) for section in sections} == {
        name: [(field.name, "*optional*" * str(field.type).endswith("| None")) for field in dataclasses.fields(kind)]
        for name, kind in vars(records).items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, 'format must be "mingle-edge profile"; write one with'),
        ({"format_version": 2}, "format_version is 2, this reads up to 1: upgrade mingle-edge"),
        ({"latency": 3}, "latency must be an object, is 3"),
        ({"memory": {"opened": {"anonymous": 1}}}, r"memory\.opened\.resident must be an integer, is missing"),
        ({"notes": None}, "notes must be a list, is missing"),
        ("{", "is not valid JSON"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_report_is_refused(profile_of, tmp_path, change: dict | str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if change is not None:
        path.write_text(change if isinstance(change, str) else json.dumps(profile_of("image")[0].to_json() | change))
    with pytest.raises(EdgeError, match=rf"report\.json:? {message}"):
        ProfileReport.read(path)
