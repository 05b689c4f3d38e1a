"""Experts of the layer scope: one mapped file of pages, of which a run touches exactly what it routed to.

The tower's graph chooses experts layer by layer and gathers their pages from an initializer that is this mapping, so the
system reads a page when it is first needed. After a run the bank accounts for the ranges (task, layer) that it used and
tells the system to drop (`madvise`) those beyond the budget that `replacement_policy` finds worth least.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle_index import PageBank
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.expert_budget import ExpertStats, check_budget
from mingle_edge_runtime.mapped_file import MappedFile
from mingle_edge_runtime.replacement_policy import LRFU

_Range: TypeAlias = tuple[int, int]
"""task, layer"""


class MappedPageBank:
    """The mapping, its budget and its statistics."""

    def __init__(self, file: MappedFile, layout: PageBank, tasks: Sequence[str], budget: int | None, together: int) -> None:
        """tasks: in the order of the bank. together: how many experts one image uses in a layer.

        Raises `BudgetError` where these do not fit the budget, `BundleError` where the file has another size or cannot be
        mapped.
        """
        self._layout = layout
        self._together = together
        self._tasks = {task: i for i, task in enumerate(tasks)}
        self._page_bytes = layout.page * np.dtype(layout.dtype).itemsize
        self._bytes = [layer.pages * self._page_bytes for layer in layout.layers]
        self._sizes = dict.fromkeys(tasks, sum(self._bytes))
        self._resident: set[_Range] = set()
        self._policy = LRFU[_Range]()
        self._pinned: frozenset[str] = frozenset()
        self._rules = threading.Lock()  # held while pins or the budget change, so that they always fit each other
        self._lock = threading.Lock()
        self._advises = hasattr(mmap.mmap, "madvise")
        notes = ["pages of routed experts are read inside the run: stall_seconds counts those of named tasks alone"]
        if not self._advises:
            notes.append("this system has no madvise: the budget is counted, not enforced")
        self._stats = ExpertStats(budget=budget, notes=tuple(notes))
        check_budget(budget, self._sizes, (), together)
        size = len(tasks) * layout.pages_per_task * self._page_bytes
        if file.size != size:
            raise BundleError(f"{file.name} has {file.size} bytes instead of {size}: copy or export it again")
        self._file = file
        self._map = self._file.map()
        if self._advises:
            # A run reads each range from its first page to its last. Told so, the system reads ahead in it and maps nothing
            # else; without advice it also reads what lies before a page, and with MADV_RANDOM one page at a time, which takes
            # 10 x as long on a cold file (benchmarks/cold_expert.py).
            self._map.madvise(mmap.MADV_SEQUENTIAL)
        dtype = np.dtype(layout.dtype).newbyteorder("<")
        self.pages: NDArray[Any] = np.frombuffer(self._map, dtype).reshape(-1, layout.page)
        """`[tasks * pages_per_task, page]`, read-only"""

    def used(self, route_tasks: NDArray[np.int64]) -> None:
        """Account for a run that routed to `route_tasks [n, layers, k]`, and evict what exceeds the budget."""
        numbers = route_tasks + len(self._tasks) * np.arange(len(self._bytes))[:, None]  # layer * T + task
        ranges = [(number % len(self._tasks), number // len(self._tasks)) for number in np.unique(numbers).tolist()]
        with self._lock:
            misses = self._touch(ranges)
            self._count(hits=len(ranges) - misses, misses=misses)
            self._evict(self._stats.budget)

    def expect(self, task: str) -> None:
        """Read a task's pages, as the run that names it will touch them all. Raises `BundleError` where that fails."""
        if not self._holds(task):
            started = time.perf_counter()
            self._read(task)
            with self._lock:
                self._count(stall_seconds=time.perf_counter() - started)

    def prefetch(self, tasks: Iterable[str]) -> None:
        """Read these tasks' pages, in order, as long as they fit the budget together with what is pinned.

        Raises `BundleError` where that fails.
        """
        budget = self._stats.budget
        kept = set(self._pinned)
        for task in tasks:
            kept.add(task)
            if budget is not None and sum(self._sizes[name] for name in kept) > budget:
                return
            if not self._holds(task):
                self._read(task)
            with self._lock:
                self._touch(self._ranges(task))
                self._evict(self._stats.budget)

    def pin(self, tasks: Iterable[str]) -> None:
        """Read exactly these tasks' pages and keep them; those pinned before are pinned no longer.

        Raises `BudgetError` where they leave no room for one image's other experts.
        """
        pinned = frozenset(tasks)
        with self._rules:
            check_budget(self._stats.budget, self._sizes, pinned, self._together)
            with self._lock:
                self._pinned = pinned
                self._count(pinned_bytes=sum(self._sizes[task] for task in pinned) - self._stats.pinned_bytes)
        self.prefetch(sorted(pinned))

    def set_budget(self, budget: int | None) -> None:
        """Keep to another budget from now on: what is not pinned and exceeds it is dropped at once.

        Raises `BudgetError`, and keeps the old one, where it is too small for the pinned experts and one image.
        """
        with self._rules:
            check_budget(budget, self._sizes, self._pinned, self._together)
            with self._lock:
                self._evict(budget)
                self._stats = self._stats.under(budget)

    def stats(self) -> ExpertStats:
        """A snapshot of the counters; an expert counts layer by layer."""
        with self._lock:
            return self._stats

    def _ranges(self, task: str) -> list[_Range]:
        return [(self._tasks[task], layer) for layer in range(len(self._bytes))]

    def _touch(self, ranges: Sequence[_Range]) -> int:
        """Count a use of these ranges together; the number of those that were not resident."""
        misses = [item for item in ranges if item not in self._resident]
        size = sum(self._bytes[layer] for _, layer in misses)
        self._policy.use(ranges)
        self._resident.update(misses)
        self._count(resident_bytes=size, bytes_loaded=size)
        return len(misses)

    def _evict(self, budget: int | None) -> None:
        """Drop the ranges worth least from memory until the rest fits `budget`."""
        if budget is None or self._stats.resident_bytes <= budget:
            return
        pinned = {self._tasks[task] for task in self._pinned}
        for item in self._policy.order(sorted(item for item in self._resident if item[0] not in pinned)):
            self._resident.remove(item)
            if self._advises:
                start, end = self._span(item)
                self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
            self._count(resident_bytes=-self._bytes[item[1]], evictions=1)
            if self._stats.resident_bytes <= budget:
                return

    def _holds(self, task: str) -> bool:
        with self._lock:
            return self._resident.issuperset(self._ranges(task))

    def _read(self, task: str) -> None:
        """Read a task's pages at once: they follow each other in the file."""
        spans = [self._span(item) for item in self._ranges(task)]
        self._file.read_through(spans[0][0], spans[-1][1])

    def _span(self, item: _Range) -> tuple[int, int]:
        """First byte and end of a range in the file, the first rounded down to the system's pages as madvise asks."""
        task, layer = item
        page = task * self._layout.pages_per_task + self._layout.layers[layer].first_page
        start = page * self._page_bytes
        return start - start % mmap.PAGESIZE, start + self._bytes[layer]

    def _count(self, **changes: float) -> None:
        """Called with the lock held."""
        self._stats = self._stats.plus(**changes)
