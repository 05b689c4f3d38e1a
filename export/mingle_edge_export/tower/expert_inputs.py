"""Image scope: one expert for the whole tower, as optional inputs of the graph.

ONNX Runtime's multi-LoRA convention: an input that is also an initializer may be overridden, run by run, by an adapter file.
Defaults are the plain backbone: pairs of rank 0, and the backbone's own vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.architecture import VisionArchitecture
from mingle_edge_export.graph.builder import Array, Graph, WeightFile
from mingle_edge_export.precision.quantization import CODE_UNIT, pack_nibbles, quantize, quantize_blocks
from mingle_edge_export.precision.weight_precision import Precision
from mingle_edge_export.tower.vision_tower import PlainLayers, Tokens

Values = dict[str, NDArray[Any]]
_FLOAT = 1  # onnx.TensorProto.DataType


class ExpertInputs(PlainLayers):
    """Every parameter an expert may carry is an optional input, by the names of docs/bundle-format.md."""

    def __init__(
        self,
        graph: Graph,
        architecture: VisionArchitecture,
        backbone: Mapping[str, Array],
        file: WeightFile,
        carrying: Collection[str],
        *,
        precision: Precision = "fp32",
        exact: Collection[str] = (),
        expert_precision: Precision = "fp32",
    ) -> None:
        """carrying: the linear layers with experts. precision, exact: of the backbone, see `PlainLayers`."""
        super().__init__(graph, architecture, backbone, file, precision, exact)
        self._carrying = carrying
        self._integer = expert_precision in ("int8", "int4")
        self._stored: type[np.floating[Any]] = np.float16 if expert_precision == "fp16" else np.float32

    def vector(self, name: str) -> str:
        """An optional input of the backbone's value."""
        return self.graph.optional_weight(name, self.backbone[name], self.file)

    def add_experts(self, layers: Sequence[str], x: Tokens, tokens: Tokens, outputs: list[str]) -> list[str]:
        """`y + (x A') B` where the layer carries experts."""
        return [
            self._with_expert(layer, x.value, y) if layer in self._carrying else y
            for layer, y in zip(layers, outputs, strict=True)
        ]

    def _with_expert(self, layer: str, x: str, y: str) -> str:
        with self.graph.part(f"{layer}.expert"):
            return self._integers(layer, x, y) if self._integer else self._floats(layer, x, y)

    def _floats(self, layer: str, x: str, y: str) -> str:
        # Both as [rank, d]: of the ways to multiply by a matrix that cannot be prepacked, these are the fastest.
        A, B = (self._float_input(f"{layer}.{name}", [f"{layer}.rank", d]) for name, d in self._sides(layer))
        h = self.graph.op("Gemm", x, A, transB=1)  # [n, rank]
        return self.graph.op("Gemm", h, B, y)

    def _integers(self, layer: str, x: str, y: str) -> str:
        graph, rank, (d_out, d_in) = self.graph, f"{layer}.rank", self.architecture.linear_shape(layer)
        A = graph.input(f"{layer}.A_codes", [d_in, rank], np.zeros((d_in, 1), dtype=np.int8))
        B = graph.input(f"{layer}.B_codes", [rank, d_out], np.zeros((1, d_out), dtype=np.int8))
        scale = graph.input(f"{layer}.scale", [rank], np.zeros(1, dtype=np.float32))
        h = self.weights.integer_product(x, A, scale)  # [n, rank]
        return graph.op("Add", y, self.weights.integer_product(h, B, graph.constant(np.array([CODE_UNIT]))))

    def _float_input(self, name: str, dims: list[int | str]) -> str:
        self.graph.input(name, dims, np.zeros((0, int(dims[1])), dtype=self._stored))
        return name if self._stored is np.float32 else self.graph.op("Cast", name, to=_FLOAT)

    def _sides(self, layer: str) -> tuple[tuple[str, int], tuple[str, int]]:
        d_out, d_in = self.architecture.linear_shape(layer)
        return ("A", d_in), ("B", d_out)


def expert_values(
    architecture: VisionArchitecture,
    backbone: Mapping[str, Array],
    expert: Mapping[str, Array],
    carrying: Collection[str],
    precision: Precision = "fp32",
) -> Values:
    """The value of every optional input for one task's expert, as docs/bundle-format.md stores it.

    expert: `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`, and vectors, as in docs/merged-model-format.md; what is absent is
    the plain backbone.
    """
    values: Values = {name: expert.get(name, backbone[name]) for name in architecture.vector_shapes()}
    for layer in carrying:
        d_out, d_in = architecture.linear_shape(layer)
        A = expert.get(f"{layer}.A", np.zeros((0, d_in), dtype=np.float32))
        B = expert.get(f"{layer}.B", np.zeros((d_out, 0), dtype=np.float32)).T
        if not len(A) and precision in ("int8", "int4"):  # quantizing nothing at all has no scale
            A, B = (np.pad(rows, ((0, 1), (0, 0))) for rows in (A, B))
        values |= _stored_pair(layer, A, B, precision)
    return values


def _stored_pair(layer: str, A: Array, B: Array, precision: Precision) -> Values:
    """One layer's factors, both `[rank, d]`, at a precision.

    In integers every rank row has one scale of A times one of B, which the graph applies between the two products.
    """
    if precision == "int8":
        (A_codes, A_scales), (B_codes, B_scales) = quantize(A, axis=1), quantize(B, axis=1)
        scale = (A_scales * B_scales)[:, 0] / CODE_UNIT
        return {f"{layer}.A_codes": A_codes.T, f"{layer}.B_codes": B_codes, f"{layer}.scale": scale}
    if precision == "int4":
        stored: Values = {}
        for name, rows in (("A", A), ("B", B)):
            codes, scales = quantize_blocks(rows, bits=4)
            stored |= {
                f"{layer}.{name}_nibbles": pack_nibbles(codes),
                f"{layer}.{name}_block_scales": scales.astype(np.float16),
            }
        return stored
    stored_as = np.float16 if precision == "fp16" else np.float32
    return {f"{layer}.A": A.astype(stored_as), f"{layer}.B": B.astype(stored_as)}
