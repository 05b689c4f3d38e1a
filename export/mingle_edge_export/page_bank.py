"""Layer scope: all experts in one file of equal pages, so that a run reads the pages of routed experts and no others.

The layout is that of docs/bundle-format.md: task after task; within a task each layer owns consecutive pages, first A
`[rank, d_in]`, then B transposed `[rank, d_out]`, each starting on a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mingle_edge.architecture import VisionArchitecture
from mingle_edge_export.graph import Array

PAGE = 4096  # float32 values
TENSOR = "experts"  # the bank's initializer in the tower


@dataclass(frozen=True)
class LayerSlot:
    """Where a layer's expert lies within each task's pages."""

    layer: str
    rank: int  # the largest of all tasks; smaller experts are filled up with zeros
    d_in: int
    d_out: int
    first_page: int

    @property
    def pages_of_A(self) -> int:
        """Pages from `first_page` on."""
        return -(-self.rank * self.d_in // PAGE)

    @property
    def pages_of_B(self) -> int:
        """Pages after those of A."""
        return -(-self.rank * self.d_out // PAGE)

    @property
    def pages(self) -> int:
        """Of both matrices."""
        return self.pages_of_A + self.pages_of_B


@dataclass(frozen=True)
class PageLayout:
    """The same for every task of a bank."""

    slots: tuple[LayerSlot, ...]  # in order of depth
    pages_per_task: int

    @classmethod
    def of(cls, architecture: VisionArchitecture, ranks: Mapping[str, int]) -> PageLayout:
        """The layout for experts of these ranks by layer."""
        slots: list[LayerSlot] = []
        end = 0
        for layer in architecture.block_linears():
            if layer in ranks:
                d_out, d_in = architecture.linear_shape(layer)
                slots.append(LayerSlot(layer, ranks[layer], d_in, d_out, end))
                end += slots[-1].pages
        return cls(tuple(slots), end)

    @property
    def bytes_per_task(self) -> int:
        """Size of one task's pages."""
        return 4 * PAGE * self.pages_per_task


def write_expert(file: BinaryIO, layout: PageLayout, expert: Mapping[str, Array]) -> None:
    """Append one task's pages. expert: `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`."""
    for slot in layout.slots:
        for matrix, pages in ((expert[f"{slot.layer}.A"], slot.pages_of_A), (expert[f"{slot.layer}.B"].T, slot.pages_of_B)):
            content = np.zeros(pages * PAGE, dtype="<f4")
            content[: matrix.size] = matrix.ravel()
            file.write(content.tobytes())
