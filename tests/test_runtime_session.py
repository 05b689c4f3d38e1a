"""One ONNX Runtime session: what it records of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import SIDE, Weights, write_image_bundle

from mingle_edge_runtime import EdgeError
from mingle_edge_runtime.session import CPU, Session

PIXELS = np.zeros((2, 3, SIDE, SIDE), np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A bundle of the image scope."""
    return write_image_bundle(tmp_path_factory.mktemp("session") / "image", Weights())


def test_a_trace_times_every_operator_of_every_run(bundle, tmp_path) -> None:
    session = Session(bundle / "dense.onnx", [CPU], 1, trace=tmp_path / "dense")
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


def test_a_session_without_a_trace_writes_none(bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session(bundle / "dense.onnx", [CPU], 1)
    session.run({"pixel_values": PIXELS})
    with pytest.raises(EdgeError, match="no trace"):
        session.end_trace()
    assert list(tmp_path.iterdir()) == []
