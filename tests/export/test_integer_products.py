"""Integer products of a bundle are the same on every processor: ONNX Runtime against numpy, on the largest codes there are."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_merged import write_merged

from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.graph.builder import Graph, WeightFile
from mingle_edge_export.precision.weight_precision import WeightPrecision
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.index import LARGEST_CODE
from mingle_edge_runtime.experts.mixture import mix

CODES = range(-LARGEST_CODE, LARGEST_CODE + 1)
LOOSE = {"min_cosine": 0.0, "min_route_agreement": 0.0}


def backbone_product(codes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """x -> `x codes` as the backbone multiplies, with constant weights that ONNX Runtime packs beforehand."""
    graph = Graph("product")
    graph.input("x", ["n", len(codes)])
    file = WeightFile(io.BytesIO(), "weights.bin")
    layer = WeightPrecision(graph, file, "int8")
    graph.output("y", layer.linear("layer", "x", codes.T.astype(np.float32), None), ["n", codes.shape[1]])
    session = _session(graph, {"layer.weight_codes": codes, "layer.weight_scales": np.ones(codes.shape[1], np.float32)})
    return lambda x: session.run(None, {"x": x})[0]


def expert_product(codes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """x -> `x codes` as experts multiply, with weights that only a run knows; the same as one of a stack, and with a bias."""
    graph = Graph("product")
    graph.input("x", ["n", len(codes)])
    graph.input("codes", ["d_in", "d_out"], np.zeros((len(codes), 1), np.int8))
    graph.input("stack", ["k", "d_in", "d_out"], np.zeros((1, len(codes), 1), np.int8))
    bias = graph.input("bias", ["d_out"], np.zeros(1, np.float32))
    layer = WeightPrecision(graph, WeightFile(io.BytesIO(), "weights.bin"), "int8")
    one = graph.constant(np.ones(1, np.float32))
    for name, output in (("codes", "y"), ("stack", "stacked")):
        graph.output(output, layer.integer_product("x", name, one), ["n", "d_out"] if name == "codes" else ["k", "n", "d_out"])
    graph.output("biased", layer.integer_product("x", "codes", one, bias), ["n", "d_out"])
    session = _session(graph, {})
    stack, biases = np.stack([codes, -codes]), np.arange(codes.shape[1], dtype=np.float32)

    def run(x: np.ndarray) -> np.ndarray:
        feeds = {"x": x, "codes": codes, "stack": stack, "bias": biases}
        y, stacked, biased = session.run(["y", "stacked", "biased"], feeds)
        np.testing.assert_array_equal(stacked, [y, -y])
        np.testing.assert_array_equal(biased, y + biases)
        return np.asarray(y)

    return run


def _session(graph: Graph, weights: dict[str, np.ndarray]) -> ort.InferenceSession:
    """The graph with these weights in place of those in its file."""
    model = graph.model()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@given(
    rows=st.integers(1, 9) | st.just(50),  # one row takes another kernel; images have 50 tokens in ViT-B/32
    d_in=st.integers(2, 70) | st.just(768),  # odd, whole packs, a width of CLIP's; a product of 768 fits a float32
    d_out=st.integers(1, 48),
    weights=st.sampled_from(
        [[LARGEST_CODE], [-LARGEST_CODE], [-LARGEST_CODE, LARGEST_CODE], np.arange(-LARGEST_CODE, LARGEST_CODE)]
    ),
    activations=st.sampled_from([[255.0], [0.0, 255.0], np.arange(256.0), np.arange(-128.0, 128.0)]),
    seed=st.integers(0, 999),
)
def test_products_are_those_of_numpy(rows, d_in, d_out, weights, activations, seed):
    random = np.random.default_rng(seed)
    codes = random.choice(weights, (d_in, d_out)).astype(np.int8)
    codes[-1] = LARGEST_CODE  # in every column, so that its scale is 1
    x = random.choice(activations, (rows, d_in)).astype(np.float32)
    x[0, :2] = activations[0], activations[-1]  # so that the scale is 1, and whole numbers become themselves
    for make in (backbone_product, expert_product):
        np.testing.assert_array_equal(make(codes)(x), x.astype(np.int64) @ codes.astype(np.int64))


def test_two_products_fit_16_bits():
    """What makes the products above exact on processors whose instruction adds two of them in 16 bits (vpmaddubsw)."""
    assert np.iinfo(np.int16).max >= 2 * 255 * LARGEST_CODE
    assert np.iinfo(np.int16).min <= 2 * 255 * -LARGEST_CODE


@pytest.mark.parametrize(("operator", "zero_point"), [("MatMulInteger", 3), ("MatMulIntegerToFloat", 5)])
def test_onnxruntime_cannot_know_the_weight_zero_point_beforehand(operator, zero_point):
    """Else its kernel for SME quantizes activations by row: other integers than everywhere else (docs/method.md)."""
    graph = Graph("product")
    graph.input("x", ["n", 8])
    layer = WeightPrecision(graph, WeightFile(io.BytesIO(), "weights.bin"), "int8")
    graph.output("y", layer.linear("layer", "x", np.ones((4, 8), np.float32), None), ["n", 4])
    codes, bias = graph.input("codes", [8, "m"], np.zeros((8, 1), np.int8)), graph.input("bias", ["m"], np.zeros(1, np.float32))
    graph.output("z", layer.integer_product("x", codes, graph.constant(np.ones(1, np.float32)), bias), ["n", "m"])
    model = graph.model()
    product = next(node for node in model.graph.node if node.op_type == operator)
    computed = {output for node in model.graph.node for output in node.output}
    assert product.input[zero_point] in computed


# Of the layer scope in 4 bits, nothing is multiplied in integers that a bundle could say.
@pytest.mark.parametrize(("scope", "precision"), [("image", "int8"), ("image", "int4"), ("layer", "int8")])
def test_no_code_of_a_bundle_is_larger(scope, precision, tmp_path):
    merged = write_merged(tmp_path / "merged", scope=scope)
    options = ExportOptions(2, precision=precision, router_precision="int8" if scope == "image" else None, **LOOSE)
    path = export_bundle(merged.path, tmp_path / "bundle", options).path
    stored = list(_codes(path))
    assert max(np.abs(codes.astype(int)).max() for codes in stored) == LARGEST_CODE
    with EdgeModel.open(path) as model:
        if scope == "image":
            for joined in _joined_experts(model):
                assert np.abs(joined.astype(int)).max() <= LARGEST_CODE


def _codes(path: Path) -> Iterator[np.ndarray]:
    """All signed bytes in the graphs of a bundle, and in its experts as they are stored."""
    for graph in path.glob("*.onnx"):
        for tensor in onnx.load(graph).graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and np.prod(tensor.dims):
                yield onnx.numpy_helper.to_array(tensor)
    for adapter in path.glob("experts/*"):
        values = ort.AdapterFormat.read_adapter(str(adapter)).get_parameters()
        yield from (value.numpy().copy() for name, value in values.items() if name.endswith((".A_codes", ".B_codes")))


def _joined_experts(model: EdgeModel) -> Iterator[np.ndarray]:
    """Codes of two experts as the tower gets them, expanded from 4 bits where they are stored so, and joined."""
    with model.scope.experts.use("task0") as first, model.scope.experts.use("task1") as second:
        joined = mix([first.arrays, second.arrays], [0.5, 0.25], model.bundle.read_defaults())
    yield from (value for name, value in joined.items() if name.endswith("_codes"))
