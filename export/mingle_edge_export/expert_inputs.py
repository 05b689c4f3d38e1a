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
from mingle_edge_export.graph import Array, Graph, WeightFile
from mingle_edge_export.quantization import CODE_UNIT, pack_nibbles, quantize, quantize_blocks
from mingle_edge_export.tower import PlainLayers, Tokens
from mingle_edge_export.weight_precision import Precision

Gate = tuple[Array, Array]
"""weight [d_in], bias [1]"""
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
        gated: Collection[str] = (),
        *,
        precision: Precision = "fp32",
        exact: Collection[str] = (),
        expert_precision: Precision = "fp32",
    ) -> None:
        """carrying: the linear layers with experts. gated: those of them whose expert a learned gate scales per image.
        precision, exact: of the backbone, see `PlainLayers`."""
        super().__init__(graph, architecture, backbone, file, precision, exact)
        self._carrying = carrying
        self._gated = gated
        self._integer = expert_precision in ("int8", "int4")
        self._stored: type[np.floating[Any]] = np.float16 if expert_precision == "fp16" else np.float32
        if gated:
            self.class_token_from = "fc2"
            # A rank of at least 1 where experts are integers: quantising nothing at all has no scale.
            rank = 1 if self._integer else 0
            graph.input("gate_spread", ["experts", "gated_rank"], np.zeros((0, rank), dtype=np.float32))

    def vector(self, name: str) -> str:
        """An optional input of the backbone's value."""
        return self.graph.optional_weight(name, self.backbone[name], self.file)

    def add_experts(self, layers: Sequence[str], x: Tokens, tokens: Tokens, outputs: list[str]) -> list[str]:
        """`y + (x A') B`, each rank column of `x A'` scaled by the gate of its expert where there is one."""
        return [
            self._with_expert(layer, x, tokens, y) if layer in self._carrying else y
            for layer, y in zip(layers, outputs, strict=True)
        ]

    def _with_expert(self, layer: str, x: Tokens, tokens: Tokens, y: str) -> str:
        with self.graph.part(f"{layer}.expert"):
            return self._integers(layer, x, tokens, y) if self._integer else self._floats(layer, x, tokens, y)

    def _floats(self, layer: str, x: Tokens, tokens: Tokens, y: str) -> str:
        # Both as [rank, d]: of the ways to multiply by a matrix that cannot be prepacked, these are the fastest.
        A, B = (self._float_input(f"{layer}.{name}", [self._rank(layer), d]) for name, d in self._sides(layer))
        h = self.graph.op("Gemm", x.value, A, transB=1)  # [n, rank]
        return self.graph.op("Gemm", self._scaled_by_gate(layer, h, x, tokens), B, y)

    def _integers(self, layer: str, x: Tokens, tokens: Tokens, y: str) -> str:
        graph, rank, (d_out, d_in) = self.graph, self._rank(layer), self.architecture.linear_shape(layer)
        A = graph.input(f"{layer}.A_codes", [d_in, rank], np.zeros((d_in, 1), dtype=np.int8))
        B = graph.input(f"{layer}.B_codes", [rank, d_out], np.zeros((1, d_out), dtype=np.int8))
        scale = graph.input(f"{layer}.scale", [rank], np.zeros(1, dtype=np.float32))
        h = self.weights.integer_product(x.value, A, scale)  # [n, rank]
        h = self._scaled_by_gate(layer, h, x, tokens)
        return graph.op("Add", y, self.weights.integer_product(h, B, graph.constant(np.array([CODE_UNIT]))))

    def _float_input(self, name: str, dims: list[int | str]) -> str:
        self.graph.input(name, dims, np.zeros((0, int(dims[1])), dtype=self._stored))
        return name if self._stored is np.float32 else self.graph.op("Cast", name, to=_FLOAT)

    def _sides(self, layer: str) -> tuple[tuple[str, int], tuple[str, int]]:
        d_out, d_in = self.architecture.linear_shape(layer)
        return ("A", d_in), ("B", d_out)

    def _rank(self, layer: str) -> str:
        return "gated_rank" if layer in self._gated else f"{layer}.rank"

    def _scaled_by_gate(self, layer: str, h: str, x: Tokens, tokens: Tokens) -> str:
        """`h [n, rank]` times the gate values of each image, where the layer has gates."""
        if layer not in self._gated:
            return h
        graph, (_, d_in) = self.graph, self.architecture.linear_shape(layer)
        weight = graph.input(f"{layer}.gate_weight", [d_in, "experts"], np.zeros((d_in, 0), dtype=np.float32))
        bias = graph.input(f"{layer}.gate_bias", ["experts"], np.zeros(0, dtype=np.float32))
        values = graph.op("Add", graph.op("MatMul", self.token_mean(tokens, d_in), weight), bias)  # [batch, 1, experts]
        gate = graph.op("MatMul", values, "gate_spread")  # [batch, 1, rank]
        rank = graph.op("Shape", h, start=1, end=2)  # written out: a Reshape by 0 and -1 cannot tell a rank of 0
        batch = graph.op("Shape", gate, start=0, end=1)
        by_image = graph.op("Reshape", h, graph.op("Concat", batch, graph.integers(x.count), rank, axis=0), allowzero=1)
        scaled = graph.op("Mul", by_image, gate)  # [batch, count, rank]
        return graph.op("Reshape", scaled, graph.op("Shape", h), allowzero=1)


def expert_values(
    architecture: VisionArchitecture,
    backbone: Mapping[str, Array],
    expert: Mapping[str, Array],
    gates: Mapping[str, Gate],
    carrying: Collection[str],
    gated: Collection[str] = (),
    precision: Precision = "fp32",
) -> Values:
    """The value of every optional input for one task's expert, as docs/bundle-format.md stores it.

    expert: `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`, and vectors, as in docs/merged-model-format.md; what is absent is
    the plain backbone. gates: learned gates of this task; a layer of `gated` without one has the constant gate 1.
    """
    values: Values = {name: expert.get(name, backbone[name]) for name in architecture.vector_shapes()}
    # All gated layers share one gate_spread and therefore one rank: smaller ones are filled up with zeros.
    gated_rank = max((len(expert[f"{layer}.A"]) for layer in gated if f"{layer}.A" in expert), default=0)
    for layer in carrying:
        d_out, d_in = architecture.linear_shape(layer)
        A = expert.get(f"{layer}.A", np.zeros((0, d_in), dtype=np.float32))
        B = expert.get(f"{layer}.B", np.zeros((d_out, 0), dtype=np.float32)).T
        least = 1 if precision in ("int8", "int4") else 0  # see the defaults of `ExpertInputs`
        missing = max(gated_rank if layer in gated else 0, least) - len(A)
        A, B = (np.pad(rows, ((0, max(missing, 0)), (0, 0))) for rows in (A, B))
        values |= _stored_pair(layer, A, B, precision)
        if layer in gated:
            weight, bias = gates.get(layer, (np.zeros(d_in, dtype=np.float32), np.ones(1, dtype=np.float32)))
            values[f"{layer}.gate_weight"] = weight[:, None]
            values[f"{layer}.gate_bias"] = bias
    if gated:
        values["gate_spread"] = np.ones((1, gated_rank), dtype=np.float32)
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
