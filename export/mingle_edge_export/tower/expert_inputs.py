"""Image scope: one expert for the whole tower, as optional inputs of the graph.

ONNX Runtime's multi-LoRA convention: an input that is also an initializer may be overridden, run by run, by an adapter file.
Defaults are the plain backbone: pairs of rank 0, and the backbone's own vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_export.graph.builder import Array, Graph
from mingle_edge_export.precision.quantization import CODE_UNIT, pack_int4, quantize_blocks, quantize_change, quantize_pair
from mingle_edge_export.tower.vision_tower import Backbone, Tokens, Tower
from mingle_edge_runtime.bundle.index import Precision

_FLOAT = 1  # onnx.TensorProto.DataType


class ExpertInputs(Tower):
    """A tower in which every parameter an expert may carry is an optional input, by the names of docs/bundle-format.md."""

    optional_vectors = True

    def __init__(self, graph: Graph, backbone: Backbone, carrying: Collection[str], precision: Precision = "fp32") -> None:
        """Add to `graph`. carrying: the linear layers with experts. precision: of experts."""
        super().__init__(graph, backbone)
        self._carrying = carrying
        self._integer = precision in ("int8", "int4")
        self._stored: type[np.floating[Any]] = np.float16 if precision == "fp16" else np.float32

    def addend(self, layer: str, x: Tokens) -> str | None:
        """Add the bias, and where the layer carries experts of 8-bit codes `(x A') B + bias` `[batch * count, d_out]`.

        Their product adds a bias at no cost, and the layer's own product accumulates into theirs, so that no pass over the
        output is needed to add one to the other. Experts in floating point follow in `add_experts`.
        """
        bias = super().addend(layer, x)
        if not (self._integer and layer in self._carrying):
            return bias
        with self.graph.part(f"{layer}.expert"):
            return self._integer_product(layer, x.value, bias)

    def add_experts(self, layers: Sequence[str], x: Tokens, tokens: Tokens, outputs: list[str]) -> list[str]:
        """Return `y + (x A') B` where the layer carries an expert in floating point, y elsewhere."""
        added = dict(zip(layers, outputs, strict=True))
        for layer in layers:
            if not self._integer and layer in self._carrying:
                with self.graph.part(f"{layer}.expert"):
                    added[layer] = self._float_product(layer, x.value, added[layer])
        return list(added.values())

    def _float_product(self, layer: str, x: str, y: str) -> str:
        graph, (d_out, d_in) = self.graph, self.architecture.linear_shape(layer)
        factors = []
        # Both as [rank, d]: of the ways to multiply by a matrix that cannot be prepacked, these are the fastest.
        for name, d in (("A", d_in), ("B", d_out)):
            factor = graph.input(f"{layer}.{name}", [f"{layer}.rank", d], np.zeros((0, d), dtype=self._stored))
            factors.append(factor if self._stored is np.float32 else graph.op("Cast", factor, to=_FLOAT))
        return graph.op("Gemm", graph.op("Gemm", x, factors[0], transB=1), factors[1], y)  # [n, rank], [n, d_out]

    def _integer_product(self, layer: str, x: str, bias: str | None) -> str:
        graph, rank, (d_out, d_in) = self.graph, f"{layer}.rank", self.architecture.linear_shape(layer)
        A = graph.input(f"{layer}.A_codes", [d_in, rank], np.zeros((d_in, 1), dtype=np.int8))
        B = graph.input(f"{layer}.B_codes", [rank, d_out], np.zeros((1, d_out), dtype=np.int8))
        scale = graph.input(f"{layer}.scale", [rank], np.zeros(1, dtype=np.float32))
        h = self.weights.integer_product(x, A, scale)  # [n, rank]
        return self.weights.integer_product(h, B, graph.constant(np.array([CODE_UNIT])), bias)  # [n, d_out]


def expert_values(
    architecture: VisionArchitecture,
    expert: Mapping[str, Array],
    backbone: Mapping[str, Array],
    carrying: Collection[str],
    precision: Precision = "fp32",
) -> dict[str, NDArray[Any]]:
    """Return the values of optional inputs for one task's expert, as docs/bundle-format.md stores it.

    expert: `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`, and vectors, as in docs/merged-model-format.md; what is absent, and a
        pair of rank 0, is the plain backbone, and stays absent.
    backbone: by internal name, at least its vectors, whose differences are stored in 4 bits' stead.
    """
    values: dict[str, NDArray[Any]] = {name: expert[name] for name in architecture.vector_shapes() if name in expert}
    if precision == "int4":
        changes = {name: quantize_change(value, backbone[name]) for name, value in values.items()}
        values = {f"{name}.change_codes": codes for name, (codes, _) in changes.items()}
        values |= {f"{name}.change_scale": scale for name, (_, scale) in changes.items()}
    for layer in carrying:
        if not len(expert.get(f"{layer}.A", ())):
            continue
        A, B = expert[f"{layer}.A"], expert[f"{layer}.B"].T
        if precision == "int8":
            names = (f"{layer}.A_codes", f"{layer}.B_codes", f"{layer}.scale")
            values |= zip(names, quantize_pair(A, B), strict=True)
            continue
        for name, rows in ((f"{layer}.A", A), (f"{layer}.B", B)):
            if precision == "int4":
                codes, scales = quantize_blocks(rows, bits=4)
                values[f"{name}_nibbles"] = pack_int4(codes)
                values[f"{name}_block_scales"] = scales.astype(np.float16)
            else:
                values[name] = rows.astype(np.float16 if precision == "fp16" else np.float32)
    return values
