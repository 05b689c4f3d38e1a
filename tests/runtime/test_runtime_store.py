"""The expert store alone: what stays within the budget, what is loaded once, what is never evicted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge_runtime import BudgetError
from mingle_edge_runtime.experts.replacement_policy import HALF_LIFE
from mingle_edge_runtime.experts.store import ExpertStore

SIZES = {"a": 10, "b": 20, "c": 30, "d": 40}
PARTS = {task: {task: size} for task, size in SIZES.items()}


def store(budget: int | None, together: int = 1, parts=PARTS) -> tuple[ExpertStore, Counter[str]]:
    """A store of experts that are their own names, and how often each was opened."""
    loads: Counter[str] = Counter()
    return ExpertStore(parts, lambda task: loads.update([task]) or task, budget, together), loads


HALVES = {task: {(task, half): size // 2 for half in (0, 1)} for task, size in SIZES.items()}
BYTES = {part: size for parts in HALVES.values() for part, size in parts.items()}


@given(
    st.lists(st.sampled_from(sorted(SIZES)), max_size=60) | st.lists(st.sets(st.sampled_from(sorted(BYTES))), max_size=30),
    st.lists(st.tuples(st.integers(0, 59), st.integers(40, 100)), max_size=3).map(dict),
)
def test_what_is_worth_least_goes_first_also_when_the_budget_changes(requests, budgets: dict[int, int]) -> None:
    """Experts that are used whole, or part by part as runs touch them."""
    experts, _ = store(60, parts=HALVES)
    budget, resident, evicted = 60, set[tuple[str, int]](), 0  # the model
    uses: dict[tuple[str, int], list[int]] = {part: [] for part in BYTES}

    def shrink(limit: int, now: int, held: Iterable[tuple[str, int]] = ()) -> None:
        nonlocal evicted
        while sum(BYTES[part] for part in resident) > limit:
            # Parts that were always used together are worth the same: then they go in their order. Worth as LRFU defines it.
            worth = {part: round(sum(0.5 ** ((now - use) / HALF_LIFE) for use in uses[part]), 9) for part in resident}
            resident.remove(min(resident.difference(held), key=lambda part: (worth[part], part)))
            evicted += 1

    for now, request in enumerate(requests):
        if now in budgets:
            experts.set_budget(budget := budgets[now])
            shrink(budget, now)
            assert experts.stats().resident_bytes == sum(BYTES[part] for part in resident)
        parts = HALVES[request].keys() if isinstance(request, str) else request
        for part in parts:
            uses[part].append(now)
        if isinstance(request, str):
            shrink(budget - sum(BYTES[part] for part in parts - resident), now, held=parts)
            with experts.use(request) as expert:
                assert expert == request
        else:
            experts.touched(sorted(request))
        resident |= parts
        shrink(budget, now)
        assert experts.stats().resident_bytes == sum(BYTES[part] for part in resident) <= budget
    stats = experts.stats()
    assert stats.hits + stats.misses == sum(1 if isinstance(request, str) else len(request) for request in requests)
    assert stats.evictions == evicted
    assert not stats.overshoot_bytes or isinstance(requests[0], set)  # a run has read what it touches


@given(st.data())
def test_what_is_pinned_or_in_use_stays(data) -> None:
    experts, loads = store(100)
    experts.pin(["a", "b"])
    with ExitStack() as held:
        for task in data.draw(st.lists(st.sampled_from(sorted(SIZES)), max_size=4)):
            held.enter_context(experts.use(task))
            assert loads[task] == 1
        for task in data.draw(st.lists(st.sampled_from(sorted(SIZES)))):
            with experts.use(task):
                pass
    stats = experts.stats()
    assert loads["a"] == loads["b"] == 1
    assert stats.resident_bytes <= 100
    assert stats.overshoot_bytes == max(0, stats.peak_bytes - 100)
    assert stats.pinned_bytes == 30


def test_everything_in_use_may_overshoot_and_is_counted() -> None:
    experts, _ = store(40)
    with experts.use("d"), experts.use("c"):
        assert experts.stats().resident_bytes == 70
    assert experts.stats().overshoot_bytes == 30
    assert experts.stats().resident_bytes <= 40


def test_pins_replace_each_other_and_must_leave_room() -> None:
    experts, loads = store(60)
    with pytest.raises(BudgetError, match="60 bytes is too small: pinning c beside the others needs 70"):
        experts.pin(["c"])
    experts.pin(["b"])
    experts.pin([])
    assert experts.stats().pinned_bytes == 0
    with experts.use("d"), experts.use("c"):
        pass
    with experts.use("b"):
        assert loads["b"] == 2


def test_a_budget_that_cannot_hold_one_run_is_refused_and_the_old_one_stays() -> None:
    experts, _ = store(100)
    experts.pin(["b"])
    for task in "bd":
        with experts.use(task):
            pass
    with pytest.raises(BudgetError, match="59 bytes is too small: pinning b beside the others needs 60"):
        experts.set_budget(59)
    assert (experts.stats().budget, experts.stats().resident_bytes, experts.stats().evictions) == (100, 60, 0)
    experts.set_budget(None)
    with experts.use("a"), experts.use("c"):
        assert experts.stats().resident_bytes == 100


def test_a_smaller_budget_waits_for_what_is_in_use() -> None:
    experts, _ = store(None)
    with experts.use("d"):
        with experts.use("c"), experts.use("b"):
            experts.set_budget(40)
            assert (experts.stats().resident_bytes, experts.stats().overshoot_bytes) == (90, 50)
        assert experts.stats().resident_bytes == 40
    assert experts.stats().evictions == 2


def test_prefetch_stops_at_the_budget() -> None:
    experts, loads = store(60)
    experts.pin(["a"])
    experts.prefetch(["a", "b", "c", "d"])
    assert loads == {"a": 1, "b": 1, "c": 1}
    assert experts.stats().evictions == experts.stats().misses == 0


@pytest.mark.parametrize(("together", "least"), [(1, 40), (2, 70), (4, 100), (9, 100)])
def test_the_budget_must_hold_one_run(together: int, least: int) -> None:
    store(least, together)
    with pytest.raises(BudgetError, match=f"needs {least}"):
        store(least - 1, together)


def test_threads_that_ask_for_one_expert_load_it_once() -> None:
    started, go = threading.Barrier(8), threading.Event()
    calls: list[str] = []

    def load(task: str) -> str:
        calls.append(task)
        go.wait(10)
        return task

    experts = ExpertStore(PARTS, load, None, 1)

    def work(_: int) -> str:
        started.wait()
        with experts.use("c") as expert:
            return expert

    with ThreadPoolExecutor(8) as pool:
        experts_seen = pool.map(work, range(8))
        go.wait(0.05)  # time for the others to ask while the first one loads
        go.set()
        assert list(experts_seen) == ["c"] * 8
    assert calls == ["c"]
    assert experts.stats().bytes_loaded == 30


def test_a_failed_load_leaves_nothing_behind_and_may_be_tried_again() -> None:
    outcomes = iter([OSError("no disk"), None])

    def load(task: str) -> str:
        if error := next(outcomes):
            raise error
        return task

    experts = ExpertStore(PARTS, load, 40, 1)
    with pytest.raises(OSError, match="no disk"), experts.use("d"):
        pass
    assert experts.stats().resident_bytes == 0
    with experts.use("d") as expert:
        assert expert == "d"


def test_random_traffic_from_many_threads_keeps_the_account() -> None:
    experts, loads = store(70)

    def work(seed: int) -> None:
        for step in range(200):
            task = "abcd"[(seed * 7 + step * step) % 4]
            with experts.use(task) as expert:
                assert expert == task

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    stats = experts.stats()
    assert stats.hits + stats.misses == 1200
    assert stats.bytes_loaded == sum(SIZES[task] * count for task, count in loads.items())
    assert stats.resident_bytes <= 70
    assert stats.overshoot_bytes == max(0, stats.peak_bytes - 70)
