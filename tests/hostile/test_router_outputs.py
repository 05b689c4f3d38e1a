"""Routers whose probabilities are none, in bundles whose hashes are right."""

from __future__ import annotations

import onnx
import pytest
from tiny_bundle import Weights, images, relist, write_image_bundle

from mingle_edge_runtime import BundleError, EdgeModel


@pytest.mark.parametrize("operator", ["Identity", "Sigmoid", "Log", "Neg"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_they_are_errors_and_named_tasks_are_served(operator: str, top_k: int, tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "bundle", Weights(), top_k)
    model = onnx.load(bundle / "router.onnx", load_external_data=False)
    (softmax,) = [node for node in model.graph.node if node.op_type == "Softmax"]
    softmax.op_type = operator
    del softmax.attribute[:]
    (bundle / "router.onnx").write_bytes(model.SerializeToString())
    relist(bundle, "router.onnx")
    with EdgeModel.open(bundle) as opened:
        for ask in (opened.embed, opened.classify, opened.route):
            with pytest.raises(BundleError, match=r"router\.onnx computes probabilities of tasks that are negative"):
                ask(images(0, 1))
        assert len(opened.embed(images(0), task="red")) == 1
