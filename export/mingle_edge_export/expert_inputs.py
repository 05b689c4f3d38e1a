"""Image scope: one expert for the whole tower, as optional inputs of the graph.

ONNX Runtime's multi-LoRA convention: an input that is also an initializer may be overridden, run by run, by an adapter file.
Defaults are the plain backbone: pairs of rank 0, and the backbone's own vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mingle_edge.architecture import VisionArchitecture
from mingle_edge_export.graph import Array, Graph, WeightFile
from mingle_edge_export.tower import PlainLayers

Gate = tuple[Array, Array]
"""weight [d_in], bias [1]"""


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
    ) -> None:
        """carrying: the linear layers with experts. gated: those of them whose expert a learned gate scales per image."""
        super().__init__(graph, architecture, backbone, file)
        self._carrying = carrying
        self._gated = gated
        if gated:
            self.class_token_from = "fc2"
            graph.input("gate_spread", ["experts", "gated_rank"], np.zeros((0, 0), dtype=np.float32))

    def vector(self, name: str) -> str:
        """An optional input of the backbone's value."""
        return self.graph.optional_weight(name, self.backbone[name], self.file)

    def experts(self, layers: Sequence[str], x: str, tokens: str) -> list[str | None]:
        """`(x A) B`, each of its rank columns scaled by the gate of its expert where there is one."""
        return [self._expert(layer, x, tokens) if layer in self._carrying else None for layer in layers]

    def _expert(self, layer: str, x: str, tokens: str) -> str:
        d_out, d_in = self.architecture.linear_shape(layer)
        rank = "gated_rank" if layer in self._gated else f"{layer}.rank"
        A = self.graph.input(f"{layer}.A", [d_in, rank], np.zeros((d_in, 0), dtype=np.float32))
        B = self.graph.input(f"{layer}.B", [rank, d_out], np.zeros((0, d_out), dtype=np.float32))
        h = self.graph.op("MatMul", x, A)  # [batch, n, rank]
        if layer in self._gated:
            h = self.graph.op("Mul", h, self._gate(layer, d_in, tokens))
        return self.graph.op("MatMul", h, B)

    def _gate(self, layer: str, d_in: int, tokens: str) -> str:
        weight = self.graph.input(f"{layer}.gate_weight", [d_in, "experts"], np.zeros((d_in, 0), dtype=np.float32))
        bias = self.graph.input(f"{layer}.gate_bias", ["experts"], np.zeros(0, dtype=np.float32))
        values = self.graph.op("Add", self.graph.op("MatMul", self.token_mean(tokens), weight), bias)  # [batch, 1, experts]
        return self.graph.op("MatMul", values, "gate_spread")  # [batch, 1, rank]


def expert_values(
    architecture: VisionArchitecture,
    backbone: Mapping[str, Array],
    expert: Mapping[str, Array],
    gates: Mapping[str, Gate],
    carrying: Collection[str],
    gated: Collection[str] = (),
) -> dict[str, Array]:
    """The value of every optional input for one task's expert.

    expert: `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`, and vectors, as in docs/merged-model-format.md; what is absent is
    the plain backbone. gates: learned gates of this task; a layer of `gated` without one has the constant gate 1.
    """
    values = {name: expert.get(name, backbone[name]) for name in architecture.vector_shapes()}
    # All gated layers share one gate_spread and therefore one rank: smaller ones are filled up with zeros.
    gated_rank = max((len(expert[f"{layer}.A"]) for layer in gated if f"{layer}.A" in expert), default=0)
    for layer in carrying:
        d_out, d_in = architecture.linear_shape(layer)
        A = expert.get(f"{layer}.A", np.zeros((0, d_in), dtype=np.float32))
        B = expert.get(f"{layer}.B", np.zeros((d_out, 0), dtype=np.float32))
        missing = gated_rank - len(A) if layer in gated else 0
        values[f"{layer}.A"] = np.pad(A.T, ((0, 0), (0, missing)))
        values[f"{layer}.B"] = np.pad(B.T, ((0, missing), (0, 0)))
        if layer in gated:
            weight, bias = gates.get(layer, (np.zeros(d_in, dtype=np.float32), np.ones(1, dtype=np.float32)))
            values[f"{layer}.gate_weight"] = weight[:, None]
            values[f"{layer}.gate_bias"] = bias
    if gated:
        values["gate_spread"] = np.ones((1, gated_rank), dtype=np.float32)
    return values
