"""Traces: sums of files written by hand, and of what ONNX Runtime really writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_bundle import GOLDEN_IMAGES, SPEC

from mingle_edge_runtime import Bundle
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import CPU
from mingle_edge_runtime.profile.baselines import Setting
from mingle_edge_runtime.profile.interleaving import Requests
from mingle_edge_runtime.profile.operators import read_trace, trace_graphs, traced_runs

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
def test_the_graphs_of_a_bundle_are_traced(bundles, scope: str) -> None:
    bundle = Bundle.open(bundles[scope, 1])
    setting = Setting(bundle, Requests(3), [CPU], 1)
    traces, ticks = {}, []
    trace_graphs(setting, preprocess(GOLDEN_IMAGES, SPEC), 4, traces, lambda: ticks.append(1))
    assert set(traces) == {"named", "dense"} | ({"router"} if scope == "image" else set())
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
