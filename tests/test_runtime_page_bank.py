"""The mapped page bank: its account against the pages the system really holds."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge_runtime import BudgetError, BundleError
from mingle_edge_runtime.bundle import LayerPages, PageBank
from mingle_edge_runtime.mapped_file import MappedFile
from mingle_edge_runtime.page_bank import MappedPageBank
from mingle_edge_runtime.replacement_policy import HALF_LIFE

TASKS = ("a", "b", "c", "d")
PAGE = 4096  # float32 values; 16 KiB, a multiple of every common page size
LAYOUT = PageBank(
    "experts.bin", "experts", "float32", PAGE, 48, (LayerPages("x", 0, 16), LayerPages("y", 16, 8), LayerPages("z", 24, 24))
)
LAYER_BYTES = [16 * PAGE * 4, 8 * PAGE * 4, 24 * PAGE * 4]
TASK_BYTES = sum(LAYER_BYTES)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A bank whose every page holds its own number."""
    path = tmp_path_factory.mktemp("bank") / "experts.bin"
    np.repeat(np.arange(len(TASKS) * 48, dtype=np.float32), PAGE).tofile(path)
    return path


def touch(bank: MappedPageBank, route: np.ndarray) -> None:
    """What a run of the tower does: read the routed pages, then have them accounted for."""
    for image in route:
        for layer, tasks in zip(LAYOUT.layers, image, strict=True):
            for task in tasks:
                first = task * 48 + layer.first_page
                rows = bank.pages[first : first + layer.pages]
                np.testing.assert_array_equal(rows[:, 0], np.arange(first, first + layer.pages))
                rows.sum()
    bank.used(route)


def present(bank: MappedPageBank, task: int, layer: int) -> np.ndarray:
    """Whether each of the system's pages under one range is in this process's memory, as the kernel says."""
    first = task * 48 + LAYOUT.layers[layer].first_page
    start = bank.pages[first:].ctypes.data // mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(8 * start)
        entries = np.frombuffer(pagemap.read(8 * LAYER_BYTES[layer] // mmap.PAGESIZE), np.uint64)
    return entries >> np.uint64(63) == 1


def opened(path: Path) -> MappedFile:
    """The file, open."""
    return MappedFile(os.open(path, os.O_RDONLY), path, str(path))


routes = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2, unique=True), min_size=3, max_size=3)


@given(
    st.lists(st.lists(routes, min_size=1, max_size=2), max_size=12),
    st.lists(st.sampled_from([None, 2 * TASK_BYTES, 3 * TASK_BYTES]), min_size=1, max_size=3),
)
def test_ranges_worth_least_go_first_also_when_the_budget_changes(file, runs, budgets: list[int | None]) -> None:
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, None, together=2)
    resident = set[tuple[int, int]]()  # the model
    uses: dict[tuple[int, int], list[int]] = {}
    requests = 0

    def worth(item: tuple[int, int], now: int) -> float:
        """What LRFU says, by its definition."""
        return sum(0.5 ** ((now - use) / HALF_LIFE) for use in uses[item])

    for now, run in enumerate(runs):
        budget = budgets[now % len(budgets)]
        bank.set_budget(budget)
        route = np.array(run)  # [n, layers, k]
        touch(bank, route)
        used = {(int(t), layer) for layer in range(3) for t in np.unique(route[:, layer])}
        requests += len(used)
        for arrived in (set(), used):  # a smaller budget takes effect at once, a run's ranges are dropped after it
            for item in arrived:
                uses.setdefault(item, []).append(now)
            resident |= arrived
            while budget is not None and sum(LAYER_BYTES[layer] for _, layer in resident) > budget:
                # Ranges that were always used together are worth the same: then tasks and layers in their order.
                resident.remove(min(resident, key=lambda item: (round(worth(item, now), 9), item)))
        assert bank.stats().resident_bytes == sum(LAYER_BYTES[layer] for _, layer in resident)
    stats = bank.stats()
    assert stats.hits + stats.misses == requests
    assert stats.evictions == stats.misses - len(resident)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages of a mapping are in memory")
def test_the_system_reads_nothing_at_open_and_drops_what_is_evicted(file) -> None:
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, 2 * TASK_BYTES, together=1)
    assert not any(present(bank, task, layer).any() for task in range(4) for layer in range(3))
    for task, gone in ((0, None), (1, None), (2, 0), (3, 1), (0, 2), (2, 3)):
        touch(bank, np.full((1, 3, 1), task))
        if gone is not None:
            assert not any(present(bank, gone, layer).any() for layer in range(3))
    assert bank.stats().evictions == 3 * 4


def test_prefetched_and_pinned_tasks_are_resident(file) -> None:
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, 3 * TASK_BYTES, together=1)
    bank.pin(["b"])
    bank.prefetch(["a", "c", "d"])
    assert bank.stats().resident_bytes == 3 * TASK_BYTES
    assert bank.stats().pinned_bytes == TASK_BYTES
    touch(bank, np.full((1, 3, 1), 0))
    touch(bank, np.full((1, 3, 1), 3))
    assert (bank.stats().hits, bank.stats().misses, bank.stats().evictions) == (3, 3, 3)
    touch(bank, np.full((1, 3, 1), 1))
    assert bank.stats().hits == 6
    bank.pin([])
    assert bank.stats().pinned_bytes == 0


def test_budgets_without_room_for_a_run_are_refused(file) -> None:
    with pytest.raises(BudgetError, match=f"the largest expert in use needs {2 * TASK_BYTES}"):
        MappedPageBank(opened(file), LAYOUT, TASKS, 2 * TASK_BYTES - 1, together=2)
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, 2 * TASK_BYTES, together=1)
    with pytest.raises(BudgetError, match=f"pinning a, c beside the others needs {3 * TASK_BYTES}"):
        bank.pin(["a", "c"])


def test_a_smaller_budget_takes_effect_at_once_or_is_refused_with_the_minimum(file) -> None:
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, None, together=1)
    for task in range(4):
        touch(bank, np.full((1, 3, 1), task))
    bank.pin(["d"])
    with pytest.raises(BudgetError, match=f"pinning d beside the others needs {2 * TASK_BYTES}"):
        bank.set_budget(2 * TASK_BYTES - 1)
    assert (bank.stats().budget, bank.stats().resident_bytes) == (None, 4 * TASK_BYTES)
    bank.set_budget(2 * TASK_BYTES)
    assert (bank.stats().resident_bytes, bank.stats().evictions, bank.stats().overshoot_bytes) == (2 * TASK_BYTES, 6, 0)
    if sys.platform == "linux":
        assert not any(present(bank, task, layer).any() for task in range(2) for layer in range(3))


def test_a_batch_may_overshoot_and_is_counted(file) -> None:
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, TASK_BYTES, together=1)
    touch(bank, np.arange(4).repeat(3).reshape(4, 3, 1))
    assert bank.stats().overshoot_bytes == 3 * TASK_BYTES
    assert bank.stats().resident_bytes <= TASK_BYTES


def test_what_is_about_to_be_used_is_read_once_in_order(file, monkeypatch) -> None:
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, None, together=1)
    spans: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFile, "read_through", lambda self, start, end: spans.append((start, end)))
    bank.expect("c")
    assert spans == [(2 * TASK_BYTES, 3 * TASK_BYTES)]
    assert bank.stats().bytes_loaded == 0
    stall = bank.stats().stall_seconds
    assert stall > 0
    touch(bank, np.full((1, 3, 1), 2))
    bank.expect("c")
    assert len(spans) == 1
    assert bank.stats().stall_seconds == stall


def test_without_madvise_the_budget_is_counted_and_it_says_so(file, monkeypatch) -> None:
    class PlainMapping(bytes):
        """A mapping as on a system without madvise: a buffer, nothing else."""

        def __new__(cls, descriptor: int, length: int, access: int) -> PlainMapping:
            return super().__new__(cls, os.pread(descriptor, os.fstat(descriptor).st_size, 0))

    monkeypatch.setattr(mmap, "mmap", PlainMapping)
    bank = MappedPageBank(opened(file), LAYOUT, TASKS, TASK_BYTES, together=1)
    bank.prefetch(["a"])
    touch(bank, np.full((1, 3, 1), 3))
    assert bank.stats().evictions == 3
    assert bank.stats().notes[-1] == "this system has no madvise: the budget is counted, not enforced"


def test_a_file_of_another_size_is_named(tmp_path) -> None:
    (tmp_path / "experts.bin").write_bytes(bytes(100))
    with pytest.raises(BundleError, match=rf"experts.bin has 100 bytes instead of {4 * TASK_BYTES}: copy or export it again"):
        MappedPageBank(opened(tmp_path / "experts.bin"), LAYOUT, TASKS, None, 1)
