"""Graphs with operators or tensors that may end or keep the process, alone, in a branch, or in a function."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_bundle import Weights, images, relist, write_image_bundle

from mingle_edge_runtime import BundleError, EdgeModel


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle whose tower is about to be changed."""
    return write_image_bundle(tmp_path / "bundle", Weights())


def endless() -> onnx.NodeProto:
    """A loop whose condition stays true."""
    truth = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["on"], ["still"])], "body", [number, truth], [truth])
    body.output[0].name = "still"
    return helper.make_node("Loop", ["", "true"], [], body=body)


def in_a_function(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Put a node in a function that nobody calls."""
    model.functions.append(helper.make_function("of", "hidden", [], [], [node], [helper.make_opsetid("", 17)]))


@pytest.mark.parametrize("name", ["tower.onnx", "router.onnx", "dense.onnx"])
@pytest.mark.parametrize("operator", ["Loop", "Einsum"])
@pytest.mark.parametrize("put", [lambda model, node: model.graph.node.append(node), in_a_function], ids=["graph", "function"])
def test_they_are_refused_before_onnx_runtime_reads_them(bundle, name: str, operator: str, put) -> None:
    model = onnx.load(bundle / name, load_external_data=False)
    long = helper.make_node("Einsum", ["pixel_values"], ["z"], equation="abcdefghijkl->a")  # of more axes than there are
    put(model, endless() if operator == "Loop" else long)
    (bundle / name).write_bytes(model.SerializeToString())
    relist(bundle, name)
    if name == "dense.onnx":  # which nothing but a profile opens
        with EdgeModel.open(bundle) as opened, pytest.raises(BundleError, match=f"{name} has an operator {operator}"):
            opened.bundle.graph(name)
        return
    with pytest.raises(BundleError, match=f"{name} has an operator {operator}"), EdgeModel.open(bundle) as opened:
        opened.embed(images(0))


@pytest.mark.parametrize("name", ["tower.onnx", "router.onnx"])
@pytest.mark.parametrize("raw", [b"", bytes(8), bytes(4000)])
def test_tensors_that_lie_about_their_bytes_are_refused(bundle, name: str, raw: bytes) -> None:
    model = onnx.load(bundle / name, load_external_data=False)
    model.graph.initializer.add(name="lie", dims=[2], data_type=TensorProto.INT64, raw_data=raw)
    (bundle / name).write_bytes(model.SerializeToString())
    relist(bundle, name)
    with (
        pytest.raises(BundleError, match=f"{name} has a tensor 'lie' of more or fewer bytes"),
        EdgeModel.open(bundle) as opened,
    ):
        opened.embed(images(0))
