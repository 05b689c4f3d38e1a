"""The mapped page bank: its account against the pages the system really holds."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mingle_edge_runtime import BundleError
from mingle_edge_runtime.bundle.index import LayerPages, PageBank
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.experts.page_bank import MappedPageBank, page_ranges, touched_ranges
from mingle_edge_runtime.experts.store import ExpertStore

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


class Pages:
    """A bank and the store that keeps its account, as the layer scope has them."""

    def __init__(self, path: Path, budget: int | None, together: int) -> None:
        file = MappedFile(os.open(path, os.O_RDONLY), path, str(path))
        self.bank = bank = MappedPageBank(file, LAYOUT, TASKS)
        ranges = page_ranges(LAYOUT, TASKS)
        self.experts = ExpertStore(ranges, bank.read, budget, together, drop=bank.drop, notes=bank.notes)


def touch(pages: Pages, route: np.ndarray) -> None:
    """Do what a run of the tower does: read the routed pages, then have them counted."""
    for image in route:
        for layer, tasks in zip(LAYOUT.layers, image, strict=True):
            for task in tasks:
                first = task * 48 + layer.first_page
                rows = pages.bank.pages[first : first + layer.pages]
                np.testing.assert_array_equal(rows[:, 0], np.arange(first, first + layer.pages))
                rows.sum()
    pages.experts.touched(touched_ranges(route, len(TASKS)))


def present(pages: Pages, task: int, layer: int) -> np.ndarray:
    """Whether each of the system's pages under one range is in this process's memory, as the kernel says."""
    first = task * 48 + LAYOUT.layers[layer].first_page
    start = pages.bank.pages[first:].ctypes.data // mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(8 * start)
        entries = np.frombuffer(pagemap.read(8 * LAYER_BYTES[layer] // mmap.PAGESIZE), np.uint64)
    return entries >> np.uint64(63) == 1


def test_a_run_touches_each_range_once_layer_by_layer() -> None:
    route = np.array([[[0, 2], [1, 3], [3, 0]], [[2, 1], [1, 3], [3, 2]]])  # [n, layers, k]
    assert touched_ranges(route, 4) == [(0, 0), (1, 0), (2, 0), (1, 1), (3, 1), (0, 2), (2, 2), (3, 2)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages of a mapping are in memory")
def test_the_system_reads_nothing_at_open_and_drops_what_is_evicted(file) -> None:
    pages = Pages(file, 2 * TASK_BYTES, together=1)
    assert not any(present(pages, task, layer).any() for task in range(4) for layer in range(3))
    for task, gone in ((0, None), (1, None), (2, 0), (3, 1), (0, 2), (2, 3)):
        touch(pages, np.full((1, 3, 1), task))
        if gone is not None:
            assert not any(present(pages, gone, layer).any() for layer in range(3))
    assert pages.experts.stats().evictions == 3 * 4
    pages.experts.set_budget(TASK_BYTES)
    assert not any(present(pages, 0, layer).any() for layer in range(3))


def test_a_batch_may_overshoot_and_is_counted(file) -> None:
    pages = Pages(file, TASK_BYTES, together=1)
    touch(pages, np.arange(4).repeat(3).reshape(4, 3, 1))
    assert pages.experts.stats().overshoot_bytes == 3 * TASK_BYTES
    assert pages.experts.stats().resident_bytes <= TASK_BYTES


def test_what_is_about_to_be_used_is_read_once_in_order(file, monkeypatch) -> None:
    pages = Pages(file, None, together=1)
    spans: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFile, "read_through", lambda self, start, end: spans.append((start, end)))
    pages.experts.expect("c")
    assert spans == [(2 * TASK_BYTES, 3 * TASK_BYTES)]
    assert pages.experts.stats().bytes_loaded == 0
    stall = pages.experts.stats().stall_seconds
    assert stall > 0
    touch(pages, np.full((1, 3, 1), 2))
    pages.experts.expect("c")
    assert len(spans) == 1
    assert pages.experts.stats().stall_seconds == stall


def test_without_madvise_the_budget_is_counted_and_it_says_so(file, monkeypatch) -> None:
    class PlainMapping(bytes):
        """A mapping as on a system without madvise: a buffer, nothing else."""

        def __new__(cls, descriptor: int, length: int, access: int) -> PlainMapping:
            return super().__new__(cls, os.pread(descriptor, os.fstat(descriptor).st_size, 0))

    monkeypatch.setattr(mmap, "mmap", PlainMapping)
    pages = Pages(file, TASK_BYTES, together=1)
    pages.experts.prefetch(["a"])
    touch(pages, np.full((1, 3, 1), 3))
    assert pages.experts.stats().evictions == 3
    assert pages.experts.stats().notes[-1] == "this system has no madvise: the budget is counted, not enforced"


def test_a_file_of_another_size_is_named(tmp_path) -> None:
    (tmp_path / "experts.bin").write_bytes(bytes(100))
    with pytest.raises(BundleError, match=rf"experts.bin has 100 bytes instead of {4 * TASK_BYTES}: copy or export it again"):
        Pages(tmp_path / "experts.bin", None, 1)
