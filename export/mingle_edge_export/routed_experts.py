"""Layer scope: gates, top-k and the page bank inside the graph.

In every gated layer and for every image: gate values `s = Wg mean_tokens(x) + bg`, the k tasks with the largest
`|s_t| ||B_t A_t||_F`, and `sum s_t B_t A_t x` over them. A choice becomes page numbers, and one Gather per matrix fetches them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge.architecture import VisionArchitecture
from mingle_edge_export.graph import Array, Graph, WeightFile
from mingle_edge_export.page_bank import PAGE, TENSOR, LayerSlot, PageLayout
from mingle_edge_export.tower import PlainLayers


@dataclass(frozen=True)
class LayerGates:
    """What chooses among the T experts of one layer."""

    weight: Array  # [d_in, T]
    bias: Array  # [T]
    norms: Array  # [T], ||B_t A_t||_F


class RoutedExperts(PlainLayers):
    """Layers that choose among the experts of a page bank."""

    class_token_from = "fc2"

    def __init__(
        self,
        graph: Graph,
        architecture: VisionArchitecture,
        backbone: Mapping[str, Array],
        file: WeightFile,
        layout: PageLayout,
        gates: Mapping[str, LayerGates],
        bank: str,
        top_k: int,
    ) -> None:
        """gates: by layer, for every slot of the layout. bank: the file of the pages. top_k: unless a run says otherwise."""
        super().__init__(graph, architecture, backbone, file)
        self._slots = {slot.layer: slot for slot in layout.slots}
        self._gates = gates
        self._tasks = len(next(iter(gates.values())).bias)
        self._pages_per_task = graph.integers(layout.pages_per_task)
        graph.external(TENSOR, (self._tasks * layout.pages_per_task, PAGE), bank)
        self._top_k = graph.input("top_k", [1], np.array([top_k], dtype=np.int64))
        mask = graph.input("task_mask", [self._tasks], np.ones(self._tasks, dtype=np.float32))
        allowed = graph.op("Greater", mask, self._scalar(0))
        self._factor = graph.op("Cast", allowed, to=1)  # [T], 0 for excluded tasks
        self._penalty = graph.op("Where", allowed, self._scalar(0), self._scalar(-1))  # contributions are not negative
        self._routes: list[tuple[str, str]] = []

    def experts(self, layers: Sequence[str], x: str, tokens: str) -> list[str | None]:
        """What the chosen experts add; the layers that carry experts are routed together."""
        slots = [self._slots[layer] for layer in layers if layer in self._slots]
        if not slots:
            return [None] * len(layers)
        graph = self.graph
        tasks, weights = self._choose([self._gates[slot.layer] for slot in slots], tokens)  # [batch, layers, k]
        self._routes.append((tasks, weights))
        first_pages = graph.op("Mul", tasks, self._pages_per_task)
        added = {}
        for i, slot in enumerate(slots):
            pick = graph.constant(np.array(i, dtype=np.int64))
            pages, scales = (graph.op("Gather", value, pick, axis=1) for value in (first_pages, weights))  # [batch, k]
            added[slot.layer] = self._expert_sum(slot, pages, scales, x)
        return [added.get(layer) for layer in layers]

    def routes(self) -> tuple[str, str]:
        """Tasks and weights of every gated layer so far, both `[batch, layers, k]`, in order of depth."""
        tasks, weights = zip(*self._routes, strict=True)
        return self.graph.op("Concat", *tasks, axis=1), self.graph.op("Concat", *weights, axis=1)

    def _choose(self, gates: Sequence[LayerGates], tokens: str) -> tuple[str, str]:
        """Task numbers and gate values of the experts with the largest contributions, both `[batch, layers, k]`."""
        graph = self.graph
        weight = graph.constant(np.concatenate([gate.weight for gate in gates], axis=1))  # [d_in, layers T]
        values = graph.op("MatMul", self.token_mean(tokens), weight)  # [batch, 1, layers T]
        values = graph.op("Reshape", values, graph.integers(-1, len(gates), self._tasks))
        values = graph.op("Add", values, graph.constant(np.stack([gate.bias for gate in gates])))
        values = graph.op("Mul", values, self._factor)
        size = graph.op("Mul", graph.op("Abs", values), graph.constant(np.stack([gate.norms for gate in gates])))
        _, tasks = graph.ops("TopK", graph.op("Add", size, self._penalty), self._top_k, outputs=2, axis=-1)
        return tasks, graph.op("GatherElements", values, tasks, axis=2)

    def _expert_sum(self, slot: LayerSlot, first_pages: str, weights: str, x: str) -> str:
        """`sum c B A x` of one layer `[batch, n, d_out]` for the tasks that start at `first_pages` in the bank."""
        graph = self.graph
        A = self._matrices(first_pages, slot.first_page, slot.pages_of_A, slot.rank, slot.d_in)
        B = self._matrices(first_pages, slot.first_page + slot.pages_of_A, slot.pages_of_B, slot.rank, slot.d_out)
        h = graph.op("MatMul", x, graph.op("Transpose", A, perm=[0, 2, 1]))  # [batch, n, k rank]
        h = graph.op("Reshape", h, graph.integers(0, 0, -1, slot.rank))
        h = graph.op("Mul", h, graph.op("Reshape", weights, graph.integers(0, 1, -1, 1)))  # [batch, n, k, rank]
        h = graph.op("Reshape", h, graph.integers(0, 0, -1))
        return graph.op("MatMul", h, B)

    def _matrices(self, first_pages: str, offset: int, pages: int, rank: int, columns: int) -> str:
        """`[batch, k rank, columns]`: matrices that occupy `pages` pages from `offset` on in the pages of each task."""
        graph = self.graph
        numbers: NDArray[np.int64] = np.arange(offset, offset + pages, dtype=np.int64)
        rows = graph.op("Add", graph.op("Unsqueeze", first_pages, graph.integers(2)), graph.constant(numbers))
        matrix = graph.op("Gather", TENSOR, rows)  # [batch, k, pages, PAGE]
        if pages * PAGE > rank * columns:
            matrix = graph.op("Reshape", matrix, graph.integers(0, 0, pages * PAGE))
            matrix = graph.op("Slice", matrix, *(graph.integers(i) for i in (0, rank * columns, 2)))
        return graph.op("Reshape", matrix, graph.integers(0, -1, columns))

    def _scalar(self, value: float) -> str:
        return self.graph.constant(np.array(value, dtype=np.float32))


def expert_norm(A: Array, B: Array) -> float:
    """`||B A||_F` without the product: the root of `sum (B'B) * (A A')`. A `[r, d_in]`, B `[d_out, r]`."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    return float(np.sqrt(max(((B.T @ B) * (A @ A.T)).sum(), 0.0)))
