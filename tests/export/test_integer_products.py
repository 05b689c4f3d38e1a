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

Codes = np.ndarray
ROWS = (1, 2, 50)  # images have 50 tokens in ViT-B/32; one row takes another kernel
LOOSE = {"min_cosine": 0.0, "min_route_agreement": 0.0}


def activations(kind: str, rows: int, d_in: int) -> np.ndarray:
    """Whole numbers `[rows, d_in]` from 0 to 255, which DynamicQuantizeLinear turns into themselves."""
    random = np.random.default_rng(d_in + rows)
    x = {
        "largest": np.full((rows, d_in), 255),
        "alternating": np.tile([255, 0], (rows, d_in))[:, :d_in],
        "random": random.integers(0, 256, (rows, d_in)),
    }[kind].astype(np.float32)
    x[0, 0] = 255  # so that the scale is 1
    return x


def weights(kind: str, d_in: int, d_out: int) -> Codes:
    """Codes `[d_in, d_out]`, with the largest in every column, so that the scale of a column is 1."""
    random = np.random.default_rng(d_in * d_out)
    codes = {
        "largest": np.full((d_in, d_out), LARGEST_CODE),
        "smallest": np.full((d_in, d_out), -LARGEST_CODE),
        "signs": LARGEST_CODE * random.choice([-1, 1], (d_in, d_out)),
        "random": random.integers(-LARGEST_CODE, LARGEST_CODE + 1, (d_in, d_out)),
    }[kind].astype(np.int8)
    codes[-1] = LARGEST_CODE
    return codes


def backbone_product(codes: Codes) -> Callable[[np.ndarray], np.ndarray]:
    """x -> `x codes` as the backbone multiplies, with constant weights that ONNX Runtime packs beforehand."""
    graph = Graph("product")
    graph.input("x", ["n", len(codes)])
    file = WeightFile(io.BytesIO(), "weights.bin")
    layer = WeightPrecision(graph, file, "int8")
    graph.output("y", layer.linear("layer", "x", codes.T.astype(np.float32), None), ["n", codes.shape[1]])
    session = _session(graph, {"layer.weight_codes": codes, "layer.weight_scales": np.ones(codes.shape[1], np.float32)})
    return lambda x: session.run(None, {"x": x})[0]


def expert_product(codes: Codes) -> Callable[[np.ndarray], np.ndarray]:
    """x -> `x codes` as experts multiply, with weights that only a run knows; the same as one of a stack of matrices."""
    graph = Graph("product")
    graph.input("x", ["n", len(codes)])
    graph.input("codes", ["d_in", "d_out"], np.zeros((len(codes), 1), np.int8))
    graph.input("stack", ["k", "d_in", "d_out"], np.zeros((1, len(codes), 1), np.int8))
    layer = WeightPrecision(graph, WeightFile(io.BytesIO(), "weights.bin"), "int8")
    one = graph.constant(np.ones(1, np.float32))
    for name, output in (("codes", "y"), ("stack", "stacked")):
        graph.output(output, layer.integer_product("x", name, one), ["n", "d_out"] if name == "codes" else ["k", "n", "d_out"])
    session = _session(graph, {})
    stack = np.stack([codes, -codes])

    def run(x: np.ndarray) -> np.ndarray:
        y, stacked = session.run(["y", "stacked"], {"x": x, "codes": codes, "stack": stack})
        np.testing.assert_array_equal(stacked, [y, -y])
        return np.asarray(y)

    return run


def _session(graph: Graph, weights: dict[str, np.ndarray]) -> ort.InferenceSession:
    """The graph with these weights in place of those in its file."""
    model = graph.model()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("make", [backbone_product, expert_product])
@pytest.mark.parametrize("d_in", [7, 64, 768])  # odd, whole packs, a width of CLIP's; a product of 768 fits a float32
@pytest.mark.parametrize("weight_kind", ["largest", "smallest", "signs", "random"])
def test_the_largest_codes_multiply_as_in_numpy(make, d_in, weight_kind):
    codes = weights(weight_kind, d_in, 48)
    product = make(codes)
    for kind in ("largest", "alternating", "random"):
        for rows in ROWS:
            x = activations(kind, rows, d_in)
            np.testing.assert_array_equal(product(x), x.astype(np.int64) @ codes.astype(np.int64), err_msg=f"{kind}, {rows}")


@pytest.mark.parametrize("make", [backbone_product, expert_product])
def test_products_hold_with_a_zero_point_of_activations(make):
    codes = weights("signs", 96, 33)
    x = activations("random", 50, 96) - 128
    x[1, :2] = -128, 127
    np.testing.assert_array_equal(make(codes)(x), x.astype(np.int64) @ codes.astype(np.int64))


def test_two_products_fit_16_bits():
    """What makes the products above exact on processors whose instruction adds two of them in 16 bits (vpmaddubsw)."""
    assert np.iinfo(np.int16).max >= 2 * 255 * LARGEST_CODE
    assert np.iinfo(np.int16).min <= 2 * 255 * -LARGEST_CODE


def test_onnxruntime_cannot_know_the_weight_zero_point_beforehand():
    """Else its kernel for SME quantizes activations by row: other integers than everywhere else (docs/method.md)."""
    graph = Graph("product")
    graph.input("x", ["n", 8])
    layer = WeightPrecision(graph, WeightFile(io.BytesIO(), "weights.bin"), "int8")
    graph.output("y", layer.linear("layer", "x", np.ones((4, 8), np.float32), None), ["n", 4])
    model = graph.model()
    product = next(node for node in model.graph.node if node.op_type == "MatMulInteger")
    computed = {output for node in model.graph.node for output in node.output}
    assert product.input[3] in computed


# Of the layer scope in 4 bits, nothing is multiplied in integers that a bundle could say.
@pytest.mark.parametrize(("scope", "precision"), [("image", "int8"), ("image", "int4"), ("layer", "int8")])
def test_no_code_of_a_bundle_is_larger(scope, precision, tmp_path):
    merged = write_merged(tmp_path / "merged", scope=scope)
    options = ExportOptions(2, precision=precision, router_precision="int8" if scope == "image" else None, **LOOSE)
    path = export_bundle(merged.path, tmp_path / "bundle", options).path
    found = list(_codes(path))
    assert max(np.abs(codes.astype(int)).max() for codes in found) == LARGEST_CODE
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
        yield from (value.numpy().copy() for name, value in values.items() if name.endswith("_codes"))


def _joined_experts(model: EdgeModel) -> Iterator[np.ndarray]:
    """Codes of two experts as the tower gets them, expanded from 4 bits where they are stored so, and joined."""
    with model.scope.experts.use("task0") as first, model.scope.experts.use("task1") as second:
        joined = mix([first.arrays, second.arrays], [0.5, 0.25], model.bundle.read_defaults())
    yield from (value for name, value in joined.items() if name.endswith("_codes"))


@given(rows=st.integers(1, 9), d_in=st.integers(1, 70), d_out=st.integers(1, 40), seed=st.integers(0, 999))
def test_products_of_any_size_are_numpys(rows, d_in, d_out, seed):
    random = np.random.default_rng(seed)
    codes = random.choice([-LARGEST_CODE, LARGEST_CODE], (d_in, d_out)).astype(np.int8)
    codes[-1] = LARGEST_CODE
    x = random.choice([0.0, 255.0], (rows, d_in)).astype(np.float32)
    x[0, 0] = 255
    for make in (backbone_product, expert_product):
        np.testing.assert_array_equal(make(codes)(x), x.astype(np.int64) @ codes.astype(np.int64))
