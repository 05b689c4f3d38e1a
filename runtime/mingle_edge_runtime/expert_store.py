"""Experts of the image scope, opened on demand under a byte budget and kept while they are useful.

The expert that `replacement_policy` finds worth least is closed first; pinned experts and those in use never are. Results
do not depend on the budget: an expert is the same bytes whenever it is opened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from mingle_edge_runtime.errors import DeviceMemoryError
from mingle_edge_runtime.expert_budget import ExpertStats, check_budget, least_budget
from mingle_edge_runtime.replacement_policy import LRFU

E = TypeVar("E")


@dataclass
class _Resident(Generic[E]):
    expert: E | None  # None while it is being opened
    size: int  # bytes
    users: int = 0


class ExpertStore(Generic[E]):
    """Opens experts by task name, at most once at a time, from any thread."""

    def __init__(
        self, sizes: Mapping[str, int], load: Callable[[str], E], budget: int | None, together: int, notes: Iterable[str]
    ) -> None:
        """sizes: bytes of each task's expert. load: opens one. together: how many one run uses at once.

        Raises `BudgetError` where the largest `together` experts do not fit the budget.
        """
        self._sizes = dict(sizes)
        self._load = load
        self._together = together
        self._residents: dict[str, _Resident[E]] = {}
        self._policy = LRFU[str]()
        self._pinned: frozenset[str] = frozenset()
        self._rules = threading.Lock()  # held while pins or the budget change, so that they always fit each other
        self._changed = threading.Condition()
        self._stats = ExpertStats(budget=budget, notes=tuple(notes))
        check_budget(budget, self._sizes, (), together)

    @contextmanager
    def use(self, task: str) -> Iterator[E]:
        """The expert of `task`, opened where it is not resident, and held until the block ends."""
        started = time.perf_counter()
        with self._hold(task) as (expert, waited):
            with self._changed:
                if waited:
                    self._count(misses=1, stall_seconds=time.perf_counter() - started)
                else:
                    self._count(hits=1)
            yield expert

    def prefetch(self, tasks: Iterable[str]) -> None:
        """Open the experts of `tasks`, in order, as long as they fit the budget together with what is pinned."""
        budget = self._stats.budget
        kept = set(self._pinned)
        for task in tasks:
            kept.add(task)
            if budget is not None and sum(self._sizes[name] for name in kept) > budget:
                return
            with self._hold(task):
                pass

    def pin(self, tasks: Iterable[str]) -> None:
        """Open the experts of exactly these tasks and never evict them; those pinned before are pinned no longer.

        Raises `BudgetError` where they leave no room for the largest of the others.
        """
        tasks = frozenset(tasks)
        with self._rules, ExitStack() as held:
            check_budget(self._stats.budget, self._sizes, tasks, self._together)
            for task in tasks:
                held.enter_context(self._hold(task))
            with self._changed:
                self._pinned = tasks
                self._count(pinned_bytes=sum(self._sizes[task] for task in tasks) - self._stats.pinned_bytes)

    def set_budget(self, budget: int | None) -> None:
        """Keep to another budget from now on: what is neither pinned nor in use and exceeds it is closed at once.

        Raises `BudgetError`, and keeps the old one, where it is too small for the pinned experts and one run.
        """
        with self._rules:
            check_budget(budget, self._sizes, self._pinned, self._together)
            with self._changed:
                self._evict(budget)
                self._stats = self._stats.under(budget)

    def make_room(self, error: DeviceMemoryError) -> None:
        """After `error`: close what is not in use, and lower the budget by an expert, as far as one run allows.

        Raises `DeviceMemoryError` where there is nothing to close.
        """
        with self._changed:
            held = self._stats.resident_bytes
            for task in self._idle():
                self._drop(task)
                self._count(evictions=1)
            if held == self._stats.resident_bytes:
                raise error
            budget = max(least_budget(self._sizes, self._pinned, self._together), held - max(self._sizes.values()))
            self._stats = self._stats.lowered(budget)

    def stats(self) -> ExpertStats:
        """A snapshot of the counters."""
        with self._changed:
            return self._stats

    @contextmanager
    def _hold(self, task: str) -> Iterator[tuple[E, bool]]:
        """The expert, which stays until the block ends, and whether it had to be waited for."""
        expert, waited = self._acquire(task)
        try:
            yield expert, waited
        finally:
            self._release(task)

    def _acquire(self, task: str) -> tuple[E, bool]:
        """The expert with one more user, and whether it had to be waited for."""
        waited = False
        with self._changed:
            self._policy.use([task])
            while True:
                resident = self._residents.get(task)
                if resident is None:
                    break
                if resident.expert is not None:
                    resident.users += 1
                    return resident.expert, waited
                waited = True
                self._changed.wait()
            size = self._sizes[task]
            self._evict(self._stats.budget, size)
            self._residents[task] = _Resident(None, size, users=1)
            self._count(resident_bytes=size)
        return self._open(task), True

    def _open(self, task: str) -> E:
        """Open the expert outside the lock, so that other tasks' runs go on."""
        try:
            try:
                expert = self._load(task)
            except DeviceMemoryError as error:
                self.make_room(error)
                expert = self._load(task)
        except BaseException:
            with self._changed:
                self._drop(task)
                self._changed.notify_all()
            raise
        with self._changed:
            self._residents[task].expert = expert
            self._count(bytes_loaded=self._sizes[task])
            self._changed.notify_all()
        return expert

    def _release(self, task: str) -> None:
        with self._changed:
            self._residents[task].users -= 1
            self._evict(self._stats.budget)

    def _evict(self, budget: int | None, needed: int = 0) -> None:
        """Close the experts worth least until `needed` more bytes fit `budget`, or none is left that may be closed."""
        if budget is None:
            return
        for task in self._policy.order(self._idle()):
            if self._stats.resident_bytes + needed <= budget:
                return
            self._drop(task)
            self._count(evictions=1)

    def _idle(self) -> list[str]:
        return [task for task, resident in self._residents.items() if not resident.users and task not in self._pinned]

    def _drop(self, task: str) -> None:
        self._count(resident_bytes=-self._residents.pop(task).size)

    def _count(self, **changes: float) -> None:
        """Called with the lock held."""
        self._stats = self._stats.plus(**changes)
