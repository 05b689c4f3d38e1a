"""Experts of the layer scope: one mapped file of pages, of which a run touches exactly what it routed to.

The tower's graph chooses experts layer by layer and gathers their pages from an initializer that is this mapping, so the
system reads a page when it is first needed. `expert_store` keeps the account of the ranges (task, layer) that runs touched,
and has those beyond the budget dropped (`madvise`).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.index import PageBank
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.errors import BundleError

# A run reads each range from its first page to its last. Told so, the system reads ahead in it and maps nothing else; without
# advice it also reads what lies before a page, and with MADV_RANDOM one page at a time, which takes 10 x as long on a cold file
# (benchmarks/cold_expert.py, which sets others).
ADVICE = getattr(mmap, "MADV_SEQUENTIAL", 0)
PageRange: TypeAlias = tuple[int, int]
"""The pages of one task in one layer, by their numbers."""


def page_ranges(layout: PageBank, tasks: Sequence[str]) -> dict[str, dict[PageRange, int]]:
    """Return the bytes of each task's pages, layer by layer. tasks: in the order of the bank."""
    layers = [layer.pages * _page_bytes(layout) for layer in layout.layers]
    return {task: {(i, layer): size for layer, size in enumerate(layers)} for i, task in enumerate(tasks)}


def touched_ranges(route_tasks: NDArray[np.int64], tasks: int) -> list[PageRange]:
    """Return what a run that routed to `route_tasks [n, layers, k]` has touched, each range once, layer by layer.

    tasks: how many the bank has.
    """
    numbers = np.unique(route_tasks + tasks * np.arange(route_tasks.shape[1])[:, None])  # layer * tasks + task
    return [(number % tasks, number // tasks) for number in numbers.tolist()]


class MappedPageBank:
    """The mapping of a bank, and what reads and drops its pages."""

    def __init__(self, file: MappedFile, layout: PageBank, tasks: Sequence[str]) -> None:
        """Map `file`, and read nothing yet. tasks: in the order of the bank.

        Raises `BundleError` where the file has another size than the layout says, or cannot be mapped.
        """
        self._layout = layout
        self._tasks = {task: i for i, task in enumerate(tasks)}
        self._file = file
        size = len(tasks) * layout.pages_per_task * _page_bytes(layout)
        if file.size != size:
            raise BundleError(f"{file.name} has {file.size} bytes instead of {size}: copy or export it again")
        self._map = file.map()
        self._advises = hasattr(mmap.mmap, "madvise")
        if self._advises:
            self._map.madvise(ADVICE)
        dtype = np.dtype(layout.dtype).newbyteorder("<")
        self.pages: NDArray[Any] = np.frombuffer(self._map, dtype).reshape(-1, layout.page)
        """`[tasks * pages_per_task, page]`, read-only"""

    @property
    def notes(self) -> list[str]:
        """Return what the counters of this bank's experts leave out."""
        notes = ["pages of routed experts are read inside the run: stall_seconds counts those of named tasks alone"]
        if not self._advises:
            notes.append("this system has no madvise: the budget is counted, not enforced")
        return notes

    def read(self, task: str) -> None:
        """Read all of a task's pages into the system's cache: they follow each other in the file.

        Raises `BundleError` where they cannot be read.
        """
        number, last = self._tasks[task], len(self._layout.layers) - 1
        self._file.read_through(self._span((number, 0))[0], self._span((number, last))[1])

    def drop(self, item: PageRange) -> None:
        """Take a range out of this process's memory, where the system can; what is touched again is read again."""
        if self._advises:
            start, end = self._span(item)
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)

    def _span(self, item: PageRange) -> tuple[int, int]:
        """Return first byte and end of a range in the file, the first rounded down to the system's pages for madvise."""
        task, layer = item
        pages = self._layout.layers[layer]
        start = (task * self._layout.pages_per_task + pages.first_page) * _page_bytes(self._layout)
        return start - start % mmap.PAGESIZE, start + pages.pages * _page_bytes(self._layout)


def _page_bytes(layout: PageBank) -> int:
    return layout.page * np.dtype(layout.dtype).itemsize
