"""One ONNX Runtime session: what it records of its runs."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
from tiny_bundle import SIDE

from mingle_edge_runtime import EdgeError
from mingle_edge_runtime.ort import session as session_module
from mingle_edge_runtime.ort.session import CPU, Session

PIXELS = np.zeros((2, 3, SIDE, SIDE), np.float32)


def test_a_trace_times_every_operator_of_every_run(image_bundle, tmp_path) -> None:
    session = Session(image_bundle / "dense.onnx", [CPU], 1, trace=tmp_path / "dense")
    for _ in range(3):
        session.run({"pixel_values": PIXELS})
    path = session.end_trace()
    assert path.parent == tmp_path
    assert path.name.startswith("dense")
    events = json.loads(path.read_text())
    kernels = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    assert [event["args"]["op_name"] for event in kernels].count("ReduceL2") == 3
    assert all(event["dur"] >= 0 for event in kernels)
    with pytest.raises(EdgeError, match=r"no trace of dense\.onnx is being recorded"):
        session.end_trace()


def test_a_session_without_a_trace_writes_none(image_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session(image_bundle / "dense.onnx", [CPU], 1)
    session.run({"pixel_values": PIXELS})
    with pytest.raises(EdgeError, match="no trace"):
        session.end_trace()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("one_at_a_time", "most"), [([CPU], 1), ([], 4)])
def test_a_provider_that_allows_one_run_at_a_time_gets_one(image_bundle, monkeypatch, one_at_a_time, most: int) -> None:
    together = threading.Barrier(most)
    running: list[int] = []
    seen: list[int] = []

    def run(*_: object) -> list[np.ndarray]:
        running.append(1)
        together.wait(10)
        seen.append(len(running))
        together.wait(10)
        running.pop()
        return [np.zeros((2, 16), np.float32)]

    monkeypatch.setattr(ort.InferenceSession, "run", run)
    monkeypatch.setattr(session_module, "ONE_RUN_AT_A_TIME", frozenset(one_at_a_time))
    session = Session(image_bundle / "dense.onnx", [CPU], 1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(session.run, [{"pixel_values": PIXELS}] * 4))
    assert seen == [most] * 4
