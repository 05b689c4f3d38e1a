"""Every benchmark from its command to its figures, with tiny models and few runs, all in one process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import (
    adaptation_step,
    apart,
    cold_expert,
    cuda,
    eviction_policy,
    expert_adaptation_time,
    expert_archive,
    expert_construction,
    full_size,
    graph_variants,
    languages,
    many_tasks,
    memory_account,
    route_reuse,
    router_depth,
    server_throughput,
    small_experts,
    submit,
    task_cost,
    task_vector_spectra,
    weight_codes,
)
from benchmarks.architectures import MODELS
from benchmarks.interleaved import compare, time_in_turn
from mingle_edge.cli import main as mingle_edge
from mingle_edge.demo import tiny_clip
from mingle_edge_export import export_bundle

TINY = MODELS["tiny"]
ONE_THREAD = ("--threads", "1")


@pytest.fixture(autouse=True)
def calls_in_this_process(monkeypatch) -> None:
    """Call what is measured apart here, with what survives JSON: starting processes takes long."""

    def call(function: Callable[..., Any], *given: object) -> Any:
        return json.loads(json.dumps(function(*json.loads(json.dumps(given)))))

    monkeypatch.setattr(apart, "call", call)


@pytest.fixture(scope="module")
def exported(image_model, layer_model, tmp_path_factory) -> Path:
    """The bundles `image` and `layer` of three tasks, exported with all that belongs to them."""
    root = tmp_path_factory.mktemp("exported")
    for scope, merged in (("image", image_model), ("layer", layer_model)):
        export_bundle(merged.path, root / scope)
    return root


@pytest.fixture
def figures_of(tmp_path) -> Callable[..., dict[str, Any]]:
    """A function of a benchmark and its options that returns the figures it writes."""

    def run(benchmark: ModuleType, *options: object) -> dict[str, Any]:
        benchmark.main([*map(str, options), "--json", str(tmp_path / "figures.json")])
        figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
        assert figures["machine"]["python"]
        return figures

    return run


def test_adaptation_step(figures_of, monkeypatch) -> None:
    monkeypatch.setattr(adaptation_step, "ARCHITECTURE", TINY)
    sizes = ["--tasks", 2, "--batch", 2, "--blocks", 1, "--rounds", 1]
    figures = figures_of(adaptation_step, *sizes, *ONE_THREAD)
    for pooling, ways in adaptation_step.WAYS.items():
        steps = figures[f"gates by {pooling}"]
        assert set(steps) == {"factored", *ways}
        for way in ways:
            assert max(steps[way]["relative_difference"].values()) < 1e-5
            assert steps[way]["ratio"] > 0


def test_cold_expert(exported, figures_of, monkeypatch) -> None:
    monkeypatch.setattr(cold_expert.Case, "drop", lambda case, spans: None)  # not every file system drops what it is asked to
    for scope in ("image", "layer"):
        figures = figures_of(cold_expert, exported / scope, "--rounds", 1, *ONE_THREAD)
        assert figures["ways"]["sequential"]["x sequential"] == 1
        assert all(run["first"] > 0 for run in figures["first_runs"].values())


def test_cuda_on_the_cpu_finds_no_difference(image_bundle, layer_bundle, figures_of) -> None:
    figures = figures_of(cuda, image_bundle, layer_bundle, "--provider", "cpu", "--runs", 1, *ONE_THREAD)
    for measured in (figures[image_bundle.name], figures[layer_bundle.name]):
        assert measured["parity"] == {"max_abs": 0, "min_cosine": pytest.approx(1, abs=1e-6), "equal_routes": 1}
        assert list(measured["latency"]) == ["batch 1", "batch 8", "batch 32"]
    memory = figures[image_bundle.name]["memory"]
    assert [row["evictions"] > 0 for row in memory] == [True, False]
    assert [row["resident_expert_bytes"] <= row["budget"] for row in memory] == [True, True]


def test_eviction_policy(figures_of) -> None:
    figures = figures_of(eviction_policy, "--requests", 160)
    equal_sizes = {name: row for name, row in figures["traces"].items() if not name.startswith("layers")}
    assert equal_sizes
    assert all(min(row.values()) >= 1 for row in equal_sizes.values())  # nothing loads less than what knows the future
    assert set(figures["summary"]) == set(eviction_policy.POLICIES)


def test_expert_construction(figures_of, monkeypatch) -> None:
    monkeypatch.setattr(expert_construction, "ARCHITECTURE", TINY)
    figures = figures_of(expert_construction, "--layers", 1, "--earlier", 1)
    assert figures["largest_relative_difference"] < 1e-4
    assert figures["ratio"] > 0


def test_expert_adaptation_time(figures_of) -> None:
    figures = figures_of(expert_adaptation_time, "--model", "tiny", "--rank", "2", "--seeds", "10")
    assert 0 < figures["seconds_a_step"] < 60 * figures["minutes_of_an_adaptation"]


def test_full_size(tmp_path, monkeypatch, capsys) -> None:
    def command(*arguments: str) -> dict[str, float]:
        result = CliRunner().invoke(mingle_edge, arguments)
        assert result.exit_code == 0, result.output
        return {"seconds": 1.0, "peak_gib": 0.5}

    monkeypatch.setattr(full_size, "command", command)
    sizes = ["--model", "tiny", "--tasks", "2", "--rank", "8", "--expert-steps", "0", "--runs", "1", "--scope", "image"]
    full_size.main([*sizes, "-o", str(tmp_path)])
    measured = json.loads((tmp_path / "full_size.json").read_text())["image"]
    assert measured["expert_bytes_read_by_open"] == 0
    assert measured["peak_gib"] == 0.5
    assert measured["ratio_to_dense"]["named"]["ratio"] > 0
    sizes_of_files = [path.stat().st_size for path in sorted((tmp_path / "bundle-image/experts").iterdir())]
    assert [expert["expert_bytes"] for expert in measured["experts"]] == sizes_of_files


def test_expert_archive(figures_of) -> None:
    experts = figures_of(expert_archive, "--models", "tiny", "--ranks", 4, "--rounds", 2)["experts"]
    found = {(row["precision"], row["by"]): row for row in experts}
    assert {precision for precision, _ in found} == {"int8", "int4"}
    assert found["int4", "nothing"]["bytes"] < found["int8", "nothing"]["bytes"]
    for row in found.values():
        assert row["share"] == row["bytes"] / found[row["precision"], "nothing"]["bytes"]
        assert row["open_ms"] > 0
    assert all(found[precision, "zlib"]["share"] < 1 for precision in ("int8", "int4"))


def test_graph_variants(figures_of, monkeypatch) -> None:
    sizes = "--model", "tiny", "--runs", 1
    figures = figures_of(graph_variants, *sizes)["variants"]
    assert figures["dense fp32"]["ratio"] == 1
    assert set(graph_variants.BOUNDS) <= set(figures)
    monkeypatch.setattr(graph_variants, "WITHOUT_VNNI", {})
    for bound, stops in ((0.0, pytest.raises(SystemExit, match="slower: dense int8")), (1e9, nullcontext())):
        monkeypatch.setattr(graph_variants, "BOUNDS", {"dense int8": bound})
        with stops:
            figures_of(graph_variants, *sizes, "--guard")


def test_languages(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: None)  # which would last, in this process
    languages.main(["-o", str(tmp_path), "--model", "tiny", "--turns", "1", "--rounds", "1"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    programs = ("Python", "plain ONNX Runtime", "Node", "Chromium")
    assert [(line["bundle"], line["program"]) for line in lines] == [(b, p) for b in ("int8", "fp32") for p in programs]
    assert all(0 < line["least"] <= line["milliseconds"] and line["mb"] > 0 for line in lines)


def test_many_tasks(exported, figures_of) -> None:
    figures = figures_of(many_tasks, exported / "image", "--tasks", 5, "--rounds", 1, *ONE_THREAD)["figures"]
    assert len(figures) == 6
    assert all(row["few"] > 0 and row["many"] > 0 for row in figures.values())


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_memory_account(scope, exported, figures_of) -> None:
    options = ["--repeats", 1, "--runs", 1, *ONE_THREAD]
    figures = figures_of(memory_account, exported / scope, *options)
    assert all(kind["account"]["steady"]["resident"] > 0 for kind in figures["kinds"].values())
    assert figures["low_memory_price"]["ratio"] > 0


def test_route_reuse(image_bundle, figures_of) -> None:
    sizes = ["--frames", 60, "--streams", 1, "--timed", 8]
    figures = figures_of(route_reuse, image_bundle, *sizes, "--latency", image_bundle)
    shares = [row["reused"] for row in figures["report"]]
    assert shares == sorted(shares)  # a higher threshold reuses more
    assert figures["latency"]["routed_over_named"] > 0


def test_router_depth(figures_of, monkeypatch) -> None:
    short = tiny_clip.Training("short", 10, 1e-3)
    monkeypatch.setattr(router_depth, "COSTED", TINY)
    monkeypatch.setattr(router_depth, "CAPTIONED", 100)
    monkeypatch.setattr(router_depth, "TASKS", router_depth.TASKS[1:3])
    monkeypatch.setattr(tiny_clip, "train_text_tower", partial(tiny_clip.train_text_tower, training=short))
    monkeypatch.setattr(tiny_clip, "pretrain", partial(tiny_clip.pretrain, training=short))
    few = {"test": 2, "seeds": 2, "train": 1}
    monkeypatch.setattr(router_depth, "make_split", partial(router_depth.make_split, per_class=few))
    figures = figures_of(router_depth, "--suites", 12, "--runs", 1)
    rows = figures["suites"]["12"]["by_depth"]
    assert min(excess for _, excess, _, _ in rows) == 0
    assert len(rows) == len(figures["times_dense"])


def test_small_experts(figures_of, capsys) -> None:
    sizes = ["--models", "tiny", "--ranks", 4, "--openings", 1, "--rounds", 2, "--account", 4]
    figures = figures_of(small_experts, *sizes)["models"]["tiny"]
    layers = {layer: TINY.linear_shape(layer) for layer in TINY.linear_layers()}
    added, plain = sum(4 * (d_out + d_in) for d_out, d_in in layers.values()), sum(o * i for o, i in layers.values())
    assert figures["arithmetic"] == {"0": 1, "4": pytest.approx(1 + added / plain)}
    assert list(figures["ratios"]) == ["dense", "fp32 0", "fp32 4", "int8 0", "int8 4"]
    assert all(row["ratio"] > 0 for row in figures["ratios"].values())
    for account in figures["account"].values():
        own = [time for name, time in account.items() if name.startswith(small_experts.OF_EXPERTS)]
        assert account["arithmetic"] > 0
        assert account["all of experts"] == pytest.approx(sum(own))
    assert "| rank | arithmetic | experts fp32 | experts int8 |" in capsys.readouterr().out


def test_submit(image_bundle, figures_of) -> None:
    figures = figures_of(submit, image_bundle, "--frames", 4, "--rounds", 1, "--size", "64x36", *ONE_THREAD)
    assert figures["submit_over_classify"] > 0


def test_server_throughput(image_bundle, figures_of) -> None:
    figures = figures_of(server_throughput, image_bundle, "--images", 8, "--rounds", 1, "--size", "64x36", *ONE_THREAD)
    assert list(figures["ways"]) == ["classify", "submit", "1", "4", "16"]
    assert all(way["images_per_second"] > 0 and way["p99_ms"] >= way["median_ms"] for way in figures["ways"].values())


def test_task_cost(figures_of, tmp_path, capsys) -> None:
    options = ["--tasks", 3, "--kinds", "image,weight-averaging", "-o", tmp_path]
    figures = figures_of(task_cost, *options, *ONE_THREAD)["figures"]
    assert {kind: len(tasks) for kind, tasks in figures.items()} == {"image": 3, "weight-averaging": 3}
    assert capsys.readouterr().out.splitlines()[-1].startswith("| weight-averaging | ")


def test_task_vector_spectra(task_file, figures_of, capsys) -> None:
    figures = figures_of(task_vector_spectra, task_file)
    kept = np.array(list(figures["kept"].values()))
    assert (np.diff(kept, axis=1) >= 0).all()
    assert (kept > np.array(figures["shares"]) - 1e-9).all()  # the first directions are the largest
    assert (kept <= 1).all()
    assert "| mean of blocks | " in capsys.readouterr().out


def test_the_law_of_spectra_is_found_again_in_what_is_drawn_by_it() -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 384)
    drawn = full_size.difference(weight)
    assert float(drawn.norm() / weight.norm()) == pytest.approx(full_size.SHIFT, rel=1e-5)
    values = np.linalg.svd(drawn.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(values / values[0], full_size.decaying(96, *full_size.DECAY), rtol=1e-3)
    start, exponent = task_vector_spectra.fit(task_vector_spectra.kept_energy(values), 96)
    assert (start, exponent) == pytest.approx(full_size.DECAY, rel=0.1)


def test_weight_codes(task_file, image_model, figures_of, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(weight_codes, "SHAPES", ((4, 64, 32),))
    demo = tmp_path / "demo"
    (demo / "images").mkdir(parents=True)
    (demo / "image").symlink_to(image_model.path)
    for task in image_model.task_names:
        (demo / "images" / task).mkdir()
        (demo / "images" / task / "test").symlink_to(task_file.parent / "test" / task)
    figures = figures_of(weight_codes, "--runs", 1, "--demo", demo)
    wrong = {name: product[0] for name, product in figures["products"]["4 x 64 x 32"].items()}
    assert wrong["signed, 7 bits"] == wrong["unsigned, 8 bits"] == 0
    for by_storage in figures["accuracy"].values():
        assert all(cosine > 0.9 for _, _, cosine in by_storage.values())


def test_ways_are_timed_in_turn_and_none_always_follows_the_same() -> None:
    order: list[str] = []
    ways = {name: partial(order.append, name) for name in "abc"}
    seconds = time_in_turn(ways, 6, warm_up=0, clock=iter(np.arange(1000.0)).__next__)
    assert all((times == 1).all() for times in seconds.values())
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 3
    compared = compare(np.array([2.0, 6.0, 4.0]), np.array([1.0, 2.0, 1.0]))
    assert compared == {"median_ms": 4000.0, "ratio": 3.0, "quartiles": (2.5, 3.5)}


def test_a_call_apart_has_a_process_of_its_own(monkeypatch) -> None:
    monkeypatch.undo()
    assert apart.call(os.getpid) not in (os.getpid(), None)
    assert apart.call(eviction_policy.size, [1, 4]) == 1
