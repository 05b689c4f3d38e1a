"""Layer scope: all experts in one file of equal pages, so that a run reads the pages of routed experts and no others.

The layout is that of docs/bundle-format.md: task after task; within a task each layer owns consecutive pages, first A
`[rank, d_in]` (int8: `[d_in, rank]`), then B transposed `[rank, d_out]`, each starting on a page. A page is a multiple of the
system's, at every precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_export.graph.builder import Array
from mingle_edge_export.precision.quantization import pack_int4, quantize_blocks, quantize_pair
from mingle_edge_runtime.bundle.index import Precision

TENSOR = "experts"  # the bank's initializer in the tower
PAGE_VALUES = {"fp32": 4096, "fp16": 4096, "int8": 4096, "int4": 8192}
Element = Literal["float32", "float16", "int8", "uint8"]
ELEMENTS: dict[Precision, Element] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
    "int4": "uint8",
}  # uint8: two values


@dataclass(frozen=True)
class LayerSlot:
    """Where a layer's expert lies within each task's pages."""

    layer: str
    rank: int  # the largest of all tasks; smaller experts are filled up with zeros
    d_in: int
    d_out: int
    page: int  # values
    first_page: int

    @property
    def pages_of_A(self) -> int:
        """Return the number of pages from `first_page` on."""
        return -(-self.rank * self.d_in // self.page)

    @property
    def pages_of_B(self) -> int:
        """Return the number of pages after those of A."""
        return -(-self.rank * self.d_out // self.page)

    @property
    def pages(self) -> int:
        """Return the number of pages of both matrices."""
        return self.pages_of_A + self.pages_of_B


@dataclass(frozen=True)
class PageLayout:
    """The same for every task of a bank."""

    slots: tuple[LayerSlot, ...]  # in order of depth
    pages_per_task: int
    precision: Precision = "fp32"

    @classmethod
    def of(cls, architecture: VisionArchitecture, ranks: Mapping[str, int], precision: Precision = "fp32") -> PageLayout:
        """Lay out experts of these ranks by layer."""
        slots: list[LayerSlot] = []
        end = 0
        for layer in architecture.block_linears():
            if layer in ranks:
                d_out, d_in = architecture.linear_shape(layer)
                slots.append(LayerSlot(layer, ranks[layer], d_in, d_out, PAGE_VALUES[precision], end))
                end += slots[-1].pages
        return cls(tuple(slots), end, precision)

    @property
    def page(self) -> int:
        """Return the number of values on a page."""
        return PAGE_VALUES[self.precision]

    @property
    def element(self) -> Element:
        """Return the type of the bank's elements."""
        return ELEMENTS[self.precision]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return that type for numpy, little-endian as the file is."""
        return np.dtype(self.element).newbyteorder("<")

    @property
    def page_elements(self) -> int:
        """Return the number of elements of `dtype` on a page."""
        return self.page // 2 if self.precision == "int4" else self.page

    @property
    def bytes_per_task(self) -> int:
        """Return the size of one task's pages in bytes."""
        return self.pages_per_task * self.page_elements * self.dtype.itemsize


@dataclass(frozen=True)
class ExpertScales:
    """What the codes of one task's expert stand for; None where they are the values themselves."""

    rows: Mapping[str, Array]
    """int8: layer -> `[rank]`, the scale of a row of A times that of the same row of B, in units of `CODE_UNIT`"""
    blocks: Array | None = None
    """int4: `[pages_per_task, page / 32]`, a scale for each 32 values"""


def write_expert(file: BinaryIO, layout: PageLayout, expert: Mapping[str, Array]) -> ExpertScales:
    """Append one task's pages and return the scales of its codes. expert: `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`."""
    rows: dict[str, Array] = {}
    blocks: list[Array] = []
    for slot in layout.slots:
        A, B = expert[f"{slot.layer}.A"], expert[f"{slot.layer}.B"].T
        A, B = (np.pad(matrix, ((0, slot.rank - len(matrix)), (0, 0))) for matrix in (A, B))
        contents: list[NDArray[Any]] = [A, B]
        if layout.precision == "int8":
            *contents, rows[slot.layer] = quantize_pair(A, B)
        for content, pages in zip(contents, (slot.pages_of_A, slot.pages_of_B), strict=True):
            content = np.pad(content.ravel(), (0, pages * layout.page - content.size)).reshape(pages, layout.page)
            if layout.precision == "int4":
                codes, scales = quantize_blocks(content, bits=4)
                content = pack_int4(codes)
                blocks.append(scales)
            file.write(np.ascontiguousarray(content, dtype=layout.dtype).tobytes())
    return ExpertScales(rows, np.concatenate(blocks) if blocks else None)
