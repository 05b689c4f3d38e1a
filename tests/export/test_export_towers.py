"""Towers of every architecture: the graphs compute what PyTorch does, in both scopes and at every precision."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_architectures import KINDS, architectures
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.check.verify import verify

IMAGES = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))


@settings(max_examples=12)
@given(architecture=architectures(), scope=st.sampled_from(["image", "layer"]), layers=st.sampled_from(["attn+mlp", "qkv+fc1"]))
def test_any_architecture_passes(architecture, scope, layers):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        merged = write_merged(path / "merged", scope=scope, tasks=2, layers=layers, architecture=architecture, router_blocks=1)
        parity = export_bundle(merged.path, path / "bundle").parity
    assert parity.cosine >= 0.99999
    assert parity.max_abs <= 1e-4


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("kind", ["SigLIP", "DINOv2"])
def test_fewer_bits(tmp_path, kind, precision):
    merged = write_merged(tmp_path / "merged", tasks=2, architecture=KINDS[kind])
    options = ExportOptions(precision=precision, router_precision=precision, min_cosine=0.8, min_route_agreement=0.5)
    parity = export_bundle(merged.path, tmp_path / "bundle", options).parity
    assert parity.cosine >= {"fp16": 0.9999, "int8": 0.99, "int4": 0.8}[precision]
    verify(tmp_path / "bundle").check()


@pytest.mark.parametrize("kind", ["SigLIP", "DINOv2"])
def test_a_folded_task_is_its_expert(tmp_path, kind):
    merged = write_merged(tmp_path / "merged", tasks=2, architecture=KINDS[kind])
    export_bundle(merged.path, tmp_path / "bundle")
    export_bundle(merged.path, tmp_path / "folded", ExportOptions(fold="task1"))
    with EdgeModel.open(tmp_path / "bundle") as routed, EdgeModel.open(tmp_path / "folded") as folded:
        expected = routed.embed(IMAGES, "task1")
        np.testing.assert_allclose(folded.embed(IMAGES), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        lengths = np.linalg.norm(expected, axis=1)
    assert (np.abs(lengths - 1) < 1e-5).all() == merged.architecture.normalized


@pytest.mark.parametrize("kind", ["SigLIP", "DINOv2"])
def test_pooling_always_carries_experts(tmp_path, kind):
    """Whatever the setting `layers` says, as the projection does; what pooling is by attention to travels whole."""
    merged = write_merged(tmp_path / "merged", tasks=1, layers="qkv+fc1", architecture=KINDS[kind])
    export_bundle(merged.path, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    adapter = ort.AdapterFormat.read_adapter(str(bundle.file(bundle.index.tasks[0].expert)))
    stored = {name: value.numpy() for name, value in adapter.get_parameters().items()}
    expert, architecture = merged.expert("task0"), merged.architecture
    outside = {name for name in stored if name.endswith(".A") and not name.startswith("blocks.")}
    assert outside == {f"{layer}.A" for layer in architecture.outer_linears()}
    assert architecture.vector_shapes().keys() == {name for name in stored if not name.endswith((".A", ".B"))}
    for name in architecture.vector_shapes():
        np.testing.assert_array_equal(stored[name], expert[name])


def test_the_last_block_is_computed_for_what_is_pooled(tmp_path):
    """Its fc1 multiplies one row an image for a class token, and all of them otherwise."""
    for kind, architecture in {"CLIP": ARCHITECTURE, **KINDS}.items():
        merged = write_merged(tmp_path / kind, tasks=1, architecture=architecture)
        export_bundle(merged.path, tmp_path / f"{kind}-bundle")
        model = onnx.load(tmp_path / f"{kind}-bundle" / "dense.onnx", load_external_data=False)
        last = f"blocks.{architecture.layers - 1}.fc1/"
        (product,) = [node.name for node in model.graph.node if node.name.startswith(last) and node.op_type == "Gemm"]
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(product))
        path = tmp_path / f"{kind}-bundle" / "shown.onnx"
        path.write_bytes(model.SerializeToString())
        pixels = np.zeros((2, 3, architecture.image_size, architecture.image_size), np.float32)
        (rows,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run([product], {"pixel_values": pixels})
        assert len(rows) == 2 * (1 if architecture.pooling == "class_token" else architecture.tokens), kind
