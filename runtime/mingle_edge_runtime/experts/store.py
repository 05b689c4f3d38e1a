"""The expert cache: experts made resident on demand under a byte budget, and kept while they are useful.

An expert has one part or several, which are evicted one by one: the adapter of the image scope is one part, the pages of the
layer scope one for each layer. It becomes resident in one of two ways: a run asks for it before it begins (`use`), or touches
parts of a mapping and tells afterwards (`touched`). The part that `replacement_policy` finds worth least is evicted first;
what is pinned or in use never is. Results do not depend on the budget: an expert is the same bytes whenever it is opened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, Protocol, TypeVar

from mingle_edge_runtime.errors import DeviceMemoryError
from mingle_edge_runtime.experts.budget import ExpertStats, check_budget, least_budget
from mingle_edge_runtime.experts.replacement_policy import LRFU

_LOG = logging.getLogger(__name__)
E = TypeVar("E")
"""What opening an expert gives."""
P = TypeVar("P", bound="_Sortable")
"""What names a part of an expert; parts that are worth the same are evicted in its order."""


class _Sortable(Hashable, Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


class ExpertStore(Generic[P, E]):
    """The experts of a bundle by task name, each opened by one thread at a time. Safe to use from several threads."""

    def __init__(
        self,
        parts: Mapping[str, Mapping[P, int]],
        load: Callable[[str], E],
        budget: int | None,
        together: int,
        *,
        drop: Callable[[P], object] | None = None,
        notes: Iterable[str] = (),
        keeper: str | None = None,
    ) -> None:
        """Keep `budget` bytes of experts resident, all that are used when it is None.

        parts: bytes of each part of each task's expert.
        load: opens a task's expert, all parts of it.
        together: the number of experts that one run uses at once.
        drop: gives up the memory of a part; None where letting go of what `load` returned is enough.
        notes: what `stats` tells of this machine or provider.
        keeper: who keeps so many resident, for error messages; None: the runs and pins do.

        Raises `BudgetError` where the largest `together` experts do not fit the budget.
        """
        self._parts = {task: dict(sizes) for task, sizes in parts.items()}
        self._tasks = {part: task for task, sizes in self._parts.items() for part in sizes}
        self._sizes = {task: sum(sizes.values()) for task, sizes in self._parts.items()}
        self._load = load
        self._drop = drop
        self._together = together
        self._keeper = keeper
        self._users: dict[P, int] = {}  # of each part that is resident, or being opened
        self._experts: dict[str, E] = {}  # what `load` returned, until a part is evicted
        self._opening: set[str] = set()
        self._evicted: list[P] = []  # and not logged yet: a handler of the log is never called with the lock held
        self._policy = LRFU[P]()
        self._pinned: frozenset[str] = frozenset()
        self._rules = threading.Lock()  # held while pins or the budget change, so that they always fit each other
        self._changed = threading.Condition()  # guards everything else
        self._stats = ExpertStats(budget=budget, notes=tuple(notes))
        self._check(budget, ())

    @contextmanager
    def use(self, task: str) -> Iterator[E]:
        """Yield the expert of `task`, opened where it is not resident, and hold it until the block ends.

        Counts a hit, or a miss and the seconds until the expert was there. Raises what `load` raises.
        """
        started = time.perf_counter()
        with self._hold(task) as waited:
            with self._changed:
                if waited:
                    self._count(misses=1, stall_seconds=time.perf_counter() - started)
                else:
                    self._count(hits=1)
            yield self._experts[task]

    def expect(self, task: str) -> None:
        """Load the expert of `task` for a run that touches all of it, unless every part is resident.

        Counts the seconds alone: the run counts what it `touched`. Raises what `load` raises.
        """
        with self._changed:
            resident = self._parts[task].keys() <= self._users.keys()
        if not resident:
            started = time.perf_counter()
            self._load(task)
            with self._changed:
                self._count(stall_seconds=time.perf_counter() - started)

    def touched(self, parts: Collection[P]) -> None:
        """Count a run that made these parts resident by using them, and evict what exceeds the budget."""
        with self._changed:
            misses = [part for part in parts if part not in self._users]
            self._policy.use(parts)
            self._users.update(dict.fromkeys(misses, 0))
            size = sum(self._size(part) for part in misses)
            self._count(hits=len(parts) - len(misses), misses=len(misses), resident_bytes=size, bytes_loaded=size)
            self._evict(self._stats.budget)
        self._log("read", misses)
        self._log_evicted()

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
        pinned = frozenset(tasks)
        with self._rules, ExitStack() as held:
            self._check(self._stats.budget, pinned)
            for task in sorted(pinned):
                held.enter_context(self._hold(task))
            with self._changed:
                self._pinned = pinned
                self._count(pinned_bytes=sum(self._sizes[task] for task in pinned) - self._stats.pinned_bytes)

    def set_budget(self, budget: int | None) -> None:
        """Keep to another budget from now on: what is neither pinned nor in use and exceeds it is evicted at once.

        Raises `BudgetError`, and keeps the old one, where it is too small for the pinned experts and one run.
        """
        with self._rules:
            self._check(budget, self._pinned)
            with self._changed:
                self._evict(budget)
                self._stats = self._stats.under(budget)
        self._log_evicted()

    def make_room(self, error: DeviceMemoryError) -> None:
        """Evict what is not in use after `error`, and lower the budget by an expert, as far as one run allows.

        Raises `error` itself where there is nothing to evict.
        """
        with self._changed:
            held = self._stats.resident_bytes
            for part in self._idle():
                self._evict_part(part)
            if held == self._stats.resident_bytes:
                raise error
            budget = max(least_budget(self._sizes, self._pinned, self._together), held - max(self._sizes.values()))
            self._stats = self._stats.lowered(budget)
            note = self._stats.notes[-1]
        self._log_evicted()
        _LOG.warning("%s", note)

    def stats(self) -> ExpertStats:
        """Return a snapshot of the counters; an expert of several parts counts part by part."""
        with self._changed:
            return self._stats

    def _check(self, budget: int | None, pinned: Collection[str]) -> None:
        check_budget(budget, self._sizes, pinned, self._together, self._keeper)

    @contextmanager
    def _hold(self, task: str) -> Iterator[bool]:
        """Keep the expert resident until the block ends. Yields whether it had to be waited for."""
        waited = self._acquire(task)
        try:
            yield waited
        finally:
            self._release(self._parts[task])

    def _acquire(self, task: str) -> bool:
        """Give the expert one more user, and return whether it had to be waited for."""
        parts, waited = self._parts[task], False
        with self._changed:
            self._policy.use(parts)
            while task in self._opening:
                waited = True
                self._changed.wait()
            missing = [part for part in parts if part not in self._users]
            for part in parts:
                self._users[part] = self._users.get(part, 0) + 1
            if not missing:
                return waited
            size = sum(parts[part] for part in missing)
            self._evict(self._stats.budget, size)
            self._opening.add(task)
            self._count(resident_bytes=size)
        self._log_evicted()
        try:
            expert = self._opened(task)
        except BaseException:
            self._forget(task, missing)
            raise
        with self._changed:
            self._experts[task] = expert
            self._opening.remove(task)
            self._count(bytes_loaded=size)
            self._changed.notify_all()
        self._log("read", missing)
        return True

    def _opened(self, task: str) -> E:
        """Load the expert outside the lock, so that other tasks' runs go on."""
        try:
            return self._load(task)
        except DeviceMemoryError as error:
            self.make_room(error)
        return self._load(task)  # now that the error has let go of the part that was loaded

    def _forget(self, task: str, missing: Iterable[P]) -> None:
        """Undo what `_acquire` did for an expert that could not be opened."""
        with self._changed:
            for part in missing:
                self._remove(part)
            self._opening.remove(task)
            self._changed.notify_all()
        self._release([part for part in self._parts[task] if part not in missing])

    def _release(self, parts: Iterable[P]) -> None:
        with self._changed:
            for part in parts:
                self._users[part] -= 1
            self._evict(self._stats.budget)
        self._log_evicted()

    def _evict(self, budget: int | None, needed: int = 0) -> None:
        """Evict the parts worth least until `needed` more bytes fit `budget`, or none is left that may go."""
        if budget is None or self._stats.resident_bytes + needed <= budget:
            return
        for part in self._policy.order(self._idle()):
            self._evict_part(part)
            if self._stats.resident_bytes + needed <= budget:
                return

    def _evict_part(self, part: P) -> None:
        self._remove(part)
        self._count(evictions=1)
        self._evicted.append(part)

    def _log_evicted(self) -> None:
        if self._evicted:
            with self._changed:
                evicted, self._evicted = self._evicted, []
            self._log("given up", evicted)

    def _log(self, what: str, parts: Iterable[P]) -> None:
        """Log what became of parts of experts, in a line for each expert."""
        if _LOG.isEnabledFor(logging.INFO):
            sizes: dict[str, int] = {}
            for part in parts:
                sizes[self._tasks[part]] = sizes.get(self._tasks[part], 0) + self._size(part)
            for task, size in sizes.items():
                _LOG.info("expert %r %s: %d bytes", task, what, size)

    def _idle(self) -> list[P]:
        return sorted(part for part, users in self._users.items() if not users and self._tasks[part] not in self._pinned)

    def _remove(self, part: P) -> None:
        del self._users[part]
        self._experts.pop(self._tasks[part], None)
        if self._drop:
            self._drop(part)
        self._count(resident_bytes=-self._size(part))

    def _size(self, part: P) -> int:
        return self._parts[self._tasks[part]][part]

    def _count(self, **changes: Any) -> None:
        """Add `changes` to the counters; called with the lock held."""
        self._stats = self._stats.plus(**changes)
