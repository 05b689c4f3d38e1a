"""Baselines compute what they claim to, against numpy and by what they open and when; traces are summed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_bundle import GOLDEN_IMAGES, SPEC, TASKS, Weights, flat

from mingle_edge_runtime import Bundle, EdgeError
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import CPU
from mingle_edge_runtime.profile import baselines
from mingle_edge_runtime.profile.baselines import BUILDERS, Setting, check_baselines
from mingle_edge_runtime.profile.interleaving import Requests
from mingle_edge_runtime.profile.operators import read_trace, trace_graphs, traced_runs

PIXELS = preprocess(GOLDEN_IMAGES, SPEC)


@pytest.fixture(scope="module")
def settings(bundles) -> dict[str, Setting]:
    """A setting for a bundle of each scope, whose requests change the task every second time."""
    requests = Requests(len(TASKS), 2)
    return {scope: Setting(Bundle.open(bundles[scope, 1]), requests, [CPU], 1) for scope in ("image", "layer")}


def dense_reference(scope: str) -> np.ndarray:
    """Embeddings of the tower without experts."""
    return Weights().image_scope(flat(PIXELS), [], []) if scope == "image" else Weights().layer_scope(flat(PIXELS), 0)[0]


def embeds(outputs: object) -> np.ndarray:
    """The embeddings of a run, whatever it returns beside them."""
    return outputs["image_embeds"] if isinstance(outputs, dict) else outputs[0]


@pytest.mark.parametrize("scope", ["image", "layer"])
@pytest.mark.parametrize("name", ["dense", "separate-models", "reload"])
def test_models_without_experts_are_the_plain_tower(settings, scope: str, name: str) -> None:
    run = BUILDERS[name](settings[scope])
    for request in range(7):
        np.testing.assert_allclose(embeds(run(PIXELS, request)), dense_reference(scope), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_all_experts_are_the_equal_mixture_or_weighted_by_the_gates(settings, scope: str) -> None:
    mixture = Weights().image_scope(flat(PIXELS), [0, 1, 2], [1 / 3] * 3)
    reference = mixture if scope == "image" else Weights().layer_scope(flat(PIXELS), len(TASKS))[0]
    actual = embeds(BUILDERS["all-experts"](settings[scope])(PIXELS, 0))
    np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-6)


def test_reload_opens_at_each_switch_and_separate_models_at_none(settings, monkeypatch) -> None:
    opened: list[Path] = []
    session = baselines.Session
    monkeypatch.setattr(
        baselines, "Session", lambda path, *more, **options: (opened.append(path), session(path, *more, **options))[1]
    )
    run = BUILDERS["reload"](settings["image"])
    counts = []
    for request in range(6):
        run(PIXELS, request)
        counts.append(len(opened))
    assert counts == [1, 1, 2, 2, 3, 3]
    opened.clear()
    run = BUILDERS["separate-models"](settings["image"])
    assert len(opened) == len(TASKS)
    for request in range(6):
        run(PIXELS, request)
    assert len(opened) == len(TASKS)


def test_separate_models_that_do_not_fit_are_refused(settings, monkeypatch) -> None:
    bundle = settings["image"].bundle
    monkeypatch.setattr(baselines, "available_memory", lambda: 3 * (bundle.root / "backbone.bin").stat().st_size)
    with pytest.raises(EdgeError, match=r"separate-models keeps 3 dense models in memory, about .* leave it out"):
        check_baselines(["dense", "separate-models"], bundle)
    check_baselines(["dense", "reload"], bundle)
    monkeypatch.setattr(baselines, "available_memory", lambda: None)
    check_baselines(["separate-models"], bundle)


def test_a_bundle_without_experts_has_none_to_compute(settings) -> None:
    bundle = settings["image"].bundle
    tasks = tuple(replace(task, expert=None) for task in bundle.index.tasks)
    folded = replace(bundle, index=replace(bundle.index, tasks=tasks))
    with pytest.raises(EdgeError, match="all-experts computes every expert, and image1 has none: leave it out"):
        check_baselines(["all-experts"], folded)
    check_baselines(["dense", "reload"], folded)


def test_experts_heads_and_golden_files_are_no_backbone(settings) -> None:
    for setting in settings.values():
        files = setting.bundle.root
        expected = sum((files / name).stat().st_size for name in ("backbone.bin", "dense.onnx", "tower.onnx"))
        router = files / "router.onnx"
        expected += router.stat().st_size if router.exists() else 0
        assert baselines.backbone_bytes(setting.bundle) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [(["dens"], "there is no baseline 'dens'; choose from dense, all-experts"), (["dense", "dense"], "given twice")],
)
def test_unknown_baselines_are_refused(settings, names, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        check_baselines(names, settings["image"].bundle)


NODES = {  # name: operator
    "patch_embedding/Conv_0": "Conv",
    "blocks.0.fc1/MatMul_4/MatMulAddFusion": "Gemm",
    "blocks.0.fc1/Add_5": "Add",
    "blocks.0.attention/Softmax_44": "Softmax",
    "MatMul_41/QuickGeluFusion": "QuickGelu",  # the exporter gave no layer
    "/MatMulAddFusion": "Gemm",
    "Add_9": "Add",
}


def trace(path: Path, runs: list[list[int]], whole: list[int]) -> Path:
    """A file like ONNX Runtime's: microseconds of every node of `NODES` in each run, and of each run."""
    events: list[dict[str, Any]] = [{"cat": "Session", "name": "session_initialization", "dur": 10**6}]
    for times, total in zip(runs, whole, strict=True):
        for (name, operator), time in zip(NODES.items(), times, strict=True):
            events.append({"cat": "Node", "name": f"{name}_kernel_time", "dur": time, "args": {"op_name": operator}})
            events.append({"cat": "Node", "name": f"{name}_fence_before", "dur": 9999, "args": {"op_name": operator}})
        events.append({"cat": "Session", "name": "SequentialExecutor::Execute", "dur": total - 1})
        events.append({"cat": "Session", "name": "model_run", "dur": total})
    path.write_text(json.dumps(events))
    return path


def test_a_trace_is_summed_by_operator_and_layer(tmp_path) -> None:
    slow, one, two, three = [10**5] * 7, [1, 2, 3, 4, 5, 6, 7], [2, 4, 6, 8, 10, 12, 14], [3, 6, 9, 12, 15, 18, 21]
    summed = read_trace(trace(tmp_path / "trace.json", [slow, one, three, two], [10**6, 30, 90, 60]), skip=1)
    assert (summed.runs, summed.run_seconds) == (3, pytest.approx(60e-6))
    assert summed.kernel_seconds == pytest.approx(56e-6)
    operators = [(item.operator, item.nodes, round(item.seconds * 1e6)) for item in summed.operators]
    assert operators == [("Add", 2, 20), ("Gemm", 2, 16), ("QuickGelu", 1, 10), ("Softmax", 1, 8), ("Conv", 1, 2)]
    assert [(item.layer, round(item.seconds * 1e6)) for item in summed.layers] == [
        ("patch_embedding", 2),
        ("blocks.0.fc1", 10),
        ("blocks.0.attention", 8),
        ("other", 36),
    ]


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_the_graphs_of_a_bundle_are_traced(settings, scope: str) -> None:
    setting, bundle = settings[scope], settings[scope].bundle
    traces, ticks = {}, []
    trace_graphs(setting, PIXELS, 4, traces, lambda: ticks.append(1))
    assert set(traces) == {"named", "dense"} | ({"router pixels"} if scope == "image" else set())
    assert len(ticks) == traced_runs(setting, 4)
    for graph, name in (("named", "tower.onnx"), ("dense", "dense.onnx")):
        nodes = [node.op_type for node in onnx.load(bundle.file(name), load_external_data=False).graph.node]
        counts = {item.operator: item.nodes for item in traces[graph].operators}
        assert counts["ReduceL2"] == nodes.count("ReduceL2") == 1
        assert traces[graph].runs == 4
        assert 0 < traces[graph].kernel_seconds <= traces[graph].run_seconds
        assert [item.layer for item in traces[graph].layers] == ["other"]  # these graphs name no layers
    expert = "MatMul" if scope == "image" else "Gather"
    assert any(item.operator == expert for item in traces["named"].operators)
    assert not any(item.operator == expert for item in traces["dense"].operators)
