"""How the backbone's weights are stored and multiplied: in float32, float16, 8 or 4 bits.

fp16 halves the file; ONNX Runtime expands the weights to float32 when it loads the graph. int8 quantizes weights per output
channel and activations when they arrive (operators DynamicQuantizeLinear and MatMulInteger, which ONNX Runtime fuses into its
integer kernels); what several layers read is quantized once. Its products are the same integers on every processor
(docs/method.md). int4 is for memory: blocks of 32 weights share a scale (`com.microsoft.MatMulNBits`).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mingle_edge_export.graph.builder import MICROSOFT, Array, Graph, WeightFile
from mingle_edge_export.precision.quantization import BLOCK, pack_int4, quantize, quantize_blocks
from mingle_edge_runtime.bundle.index import Precision

_FLOAT, _INT8 = 1, 3  # onnx.TensorProto.DataType
_INT8_ACTIVATIONS = 4  # MatMulNBits: accuracy_level


class WeightPrecision:
    """Multiplies by constant weights in one graph."""

    def __init__(self, graph: Graph, file: WeightFile, precision: Precision, exact: Collection[str] = ()) -> None:
        """Add to `graph`, with weights in `file`; exact: layers that stay in float32 whatever the precision."""
        self._graph = graph
        self._file = file
        self._precision = precision
        self._exact = exact
        self._quantized: dict[str, list[str]] = {}
        self._weight_zero_point = ""

    def linear(self, layer: str, x: str, weight: Array, addend: str | None) -> str:
        """Return the output `[n, d_out]` of a layer for `x [n, d_in]`.

        weight: `[d_out, d_in]`.
        addend: the name of what is added, a bias `[d_out]` or a matrix `[n, d_out]`.
        """
        precision = "fp32" if layer in self._exact else self._precision
        if precision in ("int8", "int4"):
            y = self._int8(layer, x, weight) if precision == "int8" else self._int4(layer, x, weight)
            return self._graph.op("Add", y, addend) if addend else y
        value = weight.T if precision == "fp32" else weight.T.astype(np.float16)
        # Stored [d_in, d_out]: ONNX Runtime prepacks only what needs no transposing.
        name = self._graph.weight(f"{layer}.weight", value, self._file)
        if precision == "fp16":
            name = self._graph.op("Cast", name, to=_FLOAT)
        return self._graph.op("Gemm", x, name, *([addend] if addend else []))

    def quantized(self, x: str) -> list[str]:
        """Return the codes of x in uint8, their scale and their zero point, computed once however many layers read x."""
        if x not in self._quantized:
            self._quantized[x] = self._graph.ops("DynamicQuantizeLinear", x, outputs=3)
        return self._quantized[x]

    def integer_product(self, x: str, codes: str, scale: str, optional_bias: str | None = None) -> str:
        """Multiply x `[..., n, d_in]`, quantized when it arrives, by `codes [..., d_in, d_out]` of int8 and by `scale`.

        optional_bias: the name of a vector `[d_out]` to add that a run may replace. ONNX Runtime fuses an integer product with
            the addition of a constant alone; for any other its own operator has to be asked for.
        """
        graph = self._graph
        values, x_scale, zero_point = self.quantized(x)
        if not self._weight_zero_point:
            # It is 0. Where ONNX Runtime knows that beforehand, its kernel for ARM's matrix extension (SME) quantizes
            # activations in another way, one scale a row, and the integers are others than on every other processor. So it is
            # computed in the run, from a scale, which is never negative.
            negative = graph.op("Less", x_scale, graph.constant(np.array(0, dtype=np.float32)))
            self._weight_zero_point = graph.op("Cast", negative, to=_INT8)
        if optional_bias:
            factors = (values, codes, x_scale, scale, zero_point, self._weight_zero_point, optional_bias)
            return graph.op("MatMulIntegerToFloat", *factors, domain=MICROSOFT)
        product = graph.op("MatMulInteger", values, codes, zero_point, self._weight_zero_point)
        return graph.op("Mul", graph.op("Cast", product, to=_FLOAT), graph.op("Mul", x_scale, scale))

    def _int8(self, layer: str, x: str, weight: Array) -> str:
        codes, scales = quantize(weight.T, axis=0)  # [d_in, d_out], [1, d_out]
        codes_name = self._graph.weight(f"{layer}.weight_codes", codes, self._file)
        return self.integer_product(x, codes_name, self._graph.weight(f"{layer}.weight_scales", scales[0], self._file))

    def _int4(self, layer: str, x: str, weight: Array) -> str:
        d_out, d_in = weight.shape
        codes, scales = quantize_blocks(weight, bits=4)  # [d_out, blocks * 32], [d_out, blocks]
        packed = pack_int4(codes).reshape(d_out, -1, BLOCK // 2)
        return self._graph.op(
            "MatMulNBits",
            x,
            self._graph.weight(f"{layer}.weight_nibbles", packed, self._file),
            self._graph.weight(f"{layer}.weight_scales", scales.reshape(-1), self._file),
            domain=MICROSOFT,
            K=d_in,
            N=d_out,
            bits=4,
            block_size=BLOCK,
            accuracy_level=_INT8_ACTIVATIONS,
        )
