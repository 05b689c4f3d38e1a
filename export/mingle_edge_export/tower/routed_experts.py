"""Layer scope: gates, top-k and the page bank inside the graph.

In every gated layer and for every image: gate values `s = Wg mean_tokens(x) + bg`, the k tasks with the largest
`|s_t| ||B_t A_t||_F`, and `sum s_t B_t A_t x` over them. A choice becomes page numbers, and one Gather per matrix fetches them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from mingle_edge_export.graph.builder import MICROSOFT, Array, Dims, Graph, WeightFile
from mingle_edge_export.precision.quantization import BLOCK, CODE_UNIT
from mingle_edge_export.tower.page_bank import TENSOR, LayerSlot, PageLayout
from mingle_edge_export.tower.vision_tower import EMBEDS, PIXELS, Backbone, Tokens, Tower

BLOCK_SCALES = "expert_scales"  # initializer of the scales of experts in int4
_FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class LayerGates:
    """What chooses among the T experts of one layer."""

    weight: Array  # [d_in, T]
    bias: Array  # [T]
    norms: Array  # [T], ||B_t A_t||_F
    row_scales: Array | None = None  # [T, rank], of experts in int8


class RoutedExperts(Tower):
    """A tower whose layers choose among the experts of a page bank."""

    class_token_from = "fc2"

    def __init__(
        self,
        graph: Graph,
        backbone: Backbone,
        layout: PageLayout,
        gates: Mapping[str, LayerGates],
        gate_file: WeightFile,
        bank: str,
        top_k: int,
        block_scales: str | None = None,
    ) -> None:
        """Add to `graph`.

        gates: by layer, for every slot of the layout, written to gate_file. bank: the file of the pages. top_k: unless a run
        says otherwise. block_scales: the file of the scales of experts in int4.
        """
        super().__init__(graph, backbone)
        self._slots = {slot.layer: slot for slot in layout.slots}
        self._layout = layout
        self._gates = gates
        self._gate_file = gate_file
        self._tasks = len(next(iter(gates.values())).bias)
        self._pages_per_task = graph.integers(layout.pages_per_task)
        rows = self._tasks * layout.pages_per_task
        graph.external(TENSOR, (rows, layout.page_elements), layout.dtype, bank)
        if block_scales is not None:
            graph.external(BLOCK_SCALES, (rows, layout.page // BLOCK), np.dtype("<f4"), block_scales)
        self._top_k = graph.input("top_k", [1], np.array([top_k], dtype=np.int64))
        mask = graph.input("task_mask", [self._tasks], np.ones(self._tasks, dtype=np.float32))
        allowed = graph.op("Greater", mask, graph.scalar(0))
        self._factor = graph.op("Cast", allowed, to=_FLOAT)  # [T], 0 for excluded tasks
        self._penalty = graph.op("Where", allowed, graph.scalar(0), graph.scalar(-1))  # contributions are not negative
        self._routes: list[tuple[str, str]] = []

    def write(self, path: Path) -> None:
        """Save the graph from images to embeddings and the routes of all gated layers."""
        embeds = self.embeddings(PIXELS)
        tasks, values = self.routes()
        dims: Dims = ["batch", len(self._slots), "k"]
        self.graph.output(EMBEDS, embeds, ["batch", self.architecture.output_dim])
        self.graph.output("route_tasks", tasks, dims, TensorProto.INT64)
        self.graph.output("route_weights", values, dims)
        self.graph.save(path)

    def add_experts(self, layers: Sequence[str], x: Tokens, tokens: Tokens, outputs: list[str]) -> list[str]:
        """Return outputs with what the chosen experts add; the layers that carry experts are routed together."""
        slots = [self._slots[layer] for layer in layers if layer in self._slots]
        if not slots:
            return outputs
        graph, added = self.graph, dict(zip(layers, outputs, strict=True))
        with graph.part(f"{slots[0].layer}.gate"):
            tasks, weights = self._choose(slots, tokens)
            self._routes.append((tasks, weights))
            first_pages = graph.op("Mul", tasks, self._pages_per_task)  # [batch, layers, k]
        for i, slot in enumerate(slots):
            with graph.part(f"{slot.layer}.expert"):
                pick = graph.constant(np.array([i], dtype=np.int64))
                # [batch, 1, k]; of a single layer that is the whole
                mine = [graph.op("Gather", v, pick, axis=1) if len(slots) > 1 else v for v in (tasks, first_pages, weights)]
                expert = self._expert_sum(slot, x, tasks=mine[0], first_pages=mine[1], weights=mine[2])
                added[slot.layer] = graph.op("Add", added[slot.layer], expert)
        return list(added.values())

    def routes(self) -> tuple[str, str]:
        """Add tasks and weights of every gated layer so far, both `[batch, layers, k]`, in order of depth."""
        tasks, weights = zip(*self._routes, strict=True)
        return self.graph.op("Concat", *tasks, axis=1), self.graph.op("Concat", *weights, axis=1)

    def _choose(self, slots: Sequence[LayerSlot], tokens: Tokens) -> tuple[str, str]:
        """Add task numbers and gate values of the experts with the largest contributions, both `[batch, layers, k]`."""
        graph, gates = self.graph, [self._gates[slot.layer] for slot in slots]
        joined = np.concatenate([gate.weight for gate in gates], axis=1)  # [d_in, layers T]
        weight = graph.weight(f"{slots[0].layer}.gate_weight", joined, self._gate_file)
        values = graph.op("MatMul", self.token_mean(tokens, slots[0].d_in), weight)  # [batch, 1, layers T]
        values = graph.op("Reshape", values, graph.integers(-1, len(gates), self._tasks))
        values = graph.op("Add", values, graph.constant(np.stack([gate.bias for gate in gates])))
        values = graph.op("Mul", values, self._factor)
        size = graph.op("Mul", graph.op("Abs", values), graph.constant(np.stack([gate.norms for gate in gates])))
        _, tasks = graph.ops("TopK", graph.op("Add", size, self._penalty), self._top_k, outputs=2, axis=-1)
        return tasks, graph.op("GatherElements", values, tasks, axis=2)

    def _expert_sum(self, slot: LayerSlot, x: Tokens, *, tasks: str, first_pages: str, weights: str) -> str:
        """Add `sum c B A x` of a layer `[batch count, d_out]`; tasks, their first pages, weights: `[batch, 1, k]`."""
        graph, row_scales = self.graph, self._gates[slot.layer].row_scales
        A = self._pages(first_pages, slot.first_page, slot.pages_of_A, slot.rank * slot.d_in)
        B = self._pages(first_pages, slot.first_page + slot.pages_of_A, slot.pages_of_B, slot.rank * slot.d_out)
        B = graph.op("Reshape", B, graph.integers(0, -1, slot.d_out))  # [batch, k rank, d_out]
        weights = graph.op("Reshape", weights, graph.integers(0, -1, 1, 1))  # [batch, k, 1, 1]
        if row_scales is None:
            h = self._float_rows(slot, x, A, weights)
            y = graph.op("MatMul", h, self._as_float(B))
        else:
            scales = graph.weight(f"{slot.layer}.row_scales", row_scales, self._gate_file)
            rows = graph.op("Gather", scales, tasks)  # [batch, 1, k, rank]
            rows = graph.op("Reshape", rows, graph.integers(0, -1, 1, slot.rank))  # [batch, k, 1, rank]
            h = self._integer_rows(slot, x, A, graph.op("Mul", weights, rows))
            y = self.weights.integer_product(h, B, graph.constant(np.array([CODE_UNIT])))
        return graph.op("Reshape", y, graph.integers(-1, slot.d_out))

    def _float_rows(self, slot: LayerSlot, x: Tokens, A: str, weights: str) -> str:
        """Add `c (A x)` of all chosen experts `[batch, count, k rank]`."""
        graph = self.graph
        A = self._as_float(graph.op("Reshape", A, graph.integers(0, -1, slot.d_in)))  # [batch, k rank, d_in]
        by_image = graph.op("Reshape", x.value, graph.integers(-1, x.count, slot.d_in))
        h = graph.op("MatMul", by_image, graph.op("Transpose", A, perm=[0, 2, 1]))
        spread = graph.op("Mul", weights, graph.constant(np.ones((1, slot.rank), dtype=np.float32)))  # [batch, k, 1, rank]
        return graph.op("Mul", h, graph.op("Reshape", spread, graph.integers(0, 1, -1)))

    def _integer_rows(self, slot: LayerSlot, x: Tokens, A: str, scales: str) -> str:
        """Add the same with experts in int8, A as `[d_in, rank]`; scales `[batch, k, 1, rank]` with the weights in them."""
        graph = self.graph
        codes, x_scale, zero_point = self.weights.quantized(x.value)
        codes = graph.op("Reshape", codes, graph.integers(-1, 1, x.count, slot.d_in))
        A = graph.op("Reshape", A, graph.integers(0, -1, slot.d_in, slot.rank))  # [batch, k, d_in, rank]
        h = graph.op("Cast", graph.op("MatMulInteger", codes, A, zero_point), to=_FLOAT)  # [batch, k, count, rank]
        h = graph.op("Mul", h, graph.op("Mul", scales, x_scale))
        h = graph.op("Transpose", h, perm=[0, 2, 1, 3])
        return graph.op("Reshape", h, graph.integers(0, x.count, -1))

    def _as_float(self, matrix: str) -> str:
        return matrix if self._layout.precision in ("fp32", "int4") else self.graph.op("Cast", matrix, to=_FLOAT)

    def _pages(self, first_pages: str, offset: int, pages: int, used: int) -> str:
        """Add the first `used` values of `pages` pages from `offset` on in the pages of each task, `[batch, ...]`.

        They are codes where they have scales of their own rows.
        """
        graph, page = self.graph, self._layout.page
        numbers: NDArray[np.int64] = np.arange(offset, offset + pages, dtype=np.int64)
        rows = graph.op("Add", graph.op("Unsqueeze", first_pages, graph.integers(3)), graph.constant(numbers))
        if self._layout.precision == "int4":
            packed = {"bits": 4, "gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK}
            values = graph.op("GatherBlockQuantized", TENSOR, rows, BLOCK_SCALES, domain=MICROSOFT, **packed)
        else:
            values = graph.op("Gather", TENSOR, rows)  # [batch, 1, k, pages, page]
        if pages * page > used:
            values = graph.op("Reshape", values, graph.integers(0, -1, pages * page))
            values = graph.op("Slice", values, *(graph.integers(i) for i in (0, used, 2)))
        return values


def expert_norm(A: Array, B: Array) -> float:
    """Compute `||B A||_F` without the product: the root of `sum (B'B) * (A A')`. A `[r, d_in]`, B `[d_out, r]`."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    return float(np.sqrt(max(((B.T @ B) * (A @ A.T)).sum(), 0.0)))
