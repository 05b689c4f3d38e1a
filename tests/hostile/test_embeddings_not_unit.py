"""Towers whose embeddings are no unit vectors, or no numbers at all, in bundles whose hashes are right."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from tiny_bundle import Weights, images, relist, write_image_bundle, write_layer_bundle

from mingle_edge_runtime import BundleError, EdgeModel


@pytest.fixture(params=[write_image_bundle, write_layer_bundle], ids=["image", "layer"])
def bundle(request, tmp_path) -> Path:
    """A bundle whose tower is about to be changed."""
    return request.param(tmp_path / "bundle", Weights())


def end_with(bundle: Path, *operators: str) -> None:
    """Compute the embedding with these operators in place of the division by its length."""
    model = onnx.load(bundle / "tower.onnx", load_external_data=False)
    (division,) = [node for node in model.graph.node if "image_embeds" in node.output]
    model.graph.node.remove(division)
    names = ["y", *(f"ending {i}" for i in range(len(operators) - 1)), "image_embeds"]
    for operator, source, target in zip(operators, names, names[1:], strict=False):
        attributes = {"to": onnx.TensorProto.STRING} if operator == "Cast" else {}
        model.graph.node.append(onnx.helper.make_node(operator, [source], [target], **attributes))
    (output,) = [value for value in model.graph.output if value.name == "image_embeds"]
    output.type.tensor_type.elem_type = onnx.TensorProto.STRING if operators[-1] == "Cast" else onnx.TensorProto.FLOAT
    (bundle / "tower.onnx").write_bytes(model.SerializeToString())
    relist(bundle, "tower.onnx")


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (["Identity"], "not finite or not of unit length"),
        (["Exp", "Exp", "Exp"], "not finite or not of unit length"),
        (["Cast"], "which are no numbers"),
    ],
)
@pytest.mark.parametrize("task", [None, "red"])
def test_they_are_errors(bundle, operators: list[str], message: str, task: str | None) -> None:
    end_with(bundle, *operators)
    with EdgeModel.open(bundle) as model, pytest.raises(BundleError, match=message):
        model.embed(images(0, 3), task=task)
