"""The product of 8-bit integers that tells whether a processor saturates, and what the runtime says about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import mingle_edge_runtime
from mingle_edge_runtime.ort.arithmetic import EXACT_PRODUCT, Arithmetic, measure_arithmetic
from mingle_edge_runtime.ort.processor import Processor
from mingle_edge_runtime.ort.session import CPU

GRAPH = Path(mingle_edge_runtime.__file__).parent / "ort/integer_product.onnx"
"""Written by `python tests/runtime/test_arithmetic.py`."""
TERMS = 64


def graph() -> onnx.ModelProto:
    """`activations [1, 64]` uint8 by 64 weights of 127."""
    weights = numpy_helper.from_array(np.full((TERMS, 1), 127, np.int8), "weights")
    node = helper.make_node("MatMulInteger", ["activations", "weights"], ["product"])
    activations = helper.make_tensor_value_info("activations", TensorProto.UINT8, [1, TERMS])
    product = helper.make_tensor_value_info("product", TensorProto.INT32, [1, 1])
    return helper.make_model(
        helper.make_graph([node], "integer product", [activations], [product], [weights]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_the_graph_that_is_shipped_is_what_onnx_makes() -> None:
    shipped = onnx.load(GRAPH)
    onnx.checker.check_model(shipped)
    assert shipped == graph()


def test_this_machine_is_exact_or_saturates_as_16_bits_do() -> None:
    codes = np.full(TERMS, 255, np.int64), np.full(TERMS, 127, np.int64)
    assert codes[0] @ codes[1] == EXACT_PRODUCT
    pairs = (codes[0] * codes[1]).reshape(-1, 2).sum(1).clip(-(2**15), 2**15 - 1).sum()
    arithmetic = measure_arithmetic([CPU])
    sets = arithmetic.processor.instruction_sets or ()
    if any("VNNI" in name or name in ("AMX-INT8", "dotprod", "i8mm") for name in sets):
        assert arithmetic.product == EXACT_PRODUCT
    assert arithmetic.product in (EXACT_PRODUCT, pairs)
    assert (arithmetic.saturation is None) == (arithmetic.product != pairs)


def test_only_an_inexact_product_is_said_to_saturate() -> None:
    exact, inexact = (Arithmetic(Processor("AMD EPYC", ("AVX2",)), "1.32.0", value) for value in (EXACT_PRODUCT, 1_048_544))
    assert exact.saturation is None
    assert inexact.saturation == "64 x 255 by 64 x 127 gives 1048544, not 2072640"
    assert str(exact) == str(inexact) == "AMD EPYC (AVX2), onnxruntime 1.32.0"


if __name__ == "__main__":
    GRAPH.write_bytes(graph().SerializeToString())
