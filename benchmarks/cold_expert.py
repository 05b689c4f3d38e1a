"""The first use of an expert whose file is not in the system's cache, against reading the same bytes with `read()`.

    python -m benchmarks.cold_expert BUNDLE [--rounds 15] [--threads N] [--json FILE]

Needs Linux, and a BUNDLE of two tasks or more on a real disk (not tmpfs). Before every measurement the bytes are dropped from
the cache and `mincore` asked whether they are gone. Everything takes turns; figures are medians in milliseconds, and times
`sequential`: reading the same bytes with `read()`, 1 MiB at a time. The device's read-ahead window, on which much depends, is
printed first.

The upper part brings a mapped expert into memory in several ways, the last two the runtime's: as usual, and with
`check_hashes`. The lower part runs the model:
`stall` is what a first run takes more than the runs after it, `reported` what the runtime counts of it as stall_seconds. In
the layer scope `routed` is a run whose experts nobody could name before it, under the advices a mapping can be given.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks.command import make_parser, write_report
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.check.golden import read_golden
from mingle_edge_runtime.experts import page_bank
from mingle_edge_runtime.images.preprocess import preprocess

Span: TypeAlias = tuple[int, int]  # first byte and end
PIECE = 1 << 20  # bytes
ADVICES = ("MADV_SEQUENTIAL", "MADV_NORMAL", "MADV_RANDOM")
MADV_POPULATE_READ = 22  # Linux 5.14


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, "bundle", rounds=15, threads=int).parse_args(options)
    case = Case(arguments.bundle, arguments.threads)
    print(f"{case.named[1] / 1e6:.1f} MB of {case.path.name}; read-ahead window of the device: {case.read_ahead_kib()} KiB")
    raw = case.ways(arguments.rounds)
    first = case.first_runs(arguments.rounds)
    for name, figures in (raw | first).items():
        print(f"{name:<36}" + "".join(f"   {key} {value:8.2f}" for key, value in figures.items()))
    write_report(arguments.json, {"read_ahead_kib": case.read_ahead_kib(), "ways": raw, "first_runs": first})


def requested(mapping: mmap.mmap, start: int, end: int) -> None:
    """Place all requests before anything waits: Linux serves one only up to its usual read-ahead window."""
    for offset in range(start, end, 128 << 10):
        mapping.madvise(mmap.MADV_WILLNEED, offset, min(128 << 10, end - offset))
    mapping.madvise(MADV_POPULATE_READ, start, end - start)


class Case:
    """A bundle, and the bytes of its experts that are to be cold."""

    def __init__(self, bundle: Path, threads: int | None) -> None:
        self.bundle, self.threads = bundle, threads
        with self.open() as model:
            index, layout = model.bundle.index, model.bundle.index.page_bank
            self.task, self.other = model.tasks[0], model.tasks[-1]
            self.pixels = preprocess(read_golden(model.bundle)["images"], index.preprocess)[:1]
            name = layout.file if layout else str(index.tasks[0].expert)
            self.path, self.sha256 = model.bundle.file(name), index.files[name].sha256
            self.named: Span = (0, index.tasks[0].expert_bytes)
            self.routed: list[Span] = []  # what the run that warms the tower up has not used; layer scope
            if layout is None:
                return
            page = layout.page * np.dtype(layout.dtype).itemsize
            (route,) = model.scope.embed(self.pixels)[1]
            for pages, chosen in zip(layout.layers, route.layers, strict=True):
                for task in set(chosen.tasks) - {self.other}:
                    first = page * (layout.pages_per_task * model.tasks.index(task) + pages.first_page)
                    self.routed.append((first, first + pages.pages * page))

    def open(self, check_hashes: bool = False) -> EdgeModel:
        """Open the bundle."""
        return EdgeModel.open(self.bundle, threads=self.threads, check_hashes=check_hashes)

    def ways(self, rounds: int) -> dict[str, dict[str, float]]:
        """Time ways to bring the named task's bytes into memory, the last the runtime's own."""
        span = self.named
        ways: dict[str, Callable[[mmap.mmap], object]] = {
            "sequential": lambda mapping: self.sequential([span]),
            "touched": lambda mapping: None,
            "touched, MADV_RANDOM": lambda mapping: mapping.madvise(mmap.MADV_RANDOM),
            "one request for all": lambda mapping: mapping.madvise(mmap.MADV_WILLNEED, *span),
            "MADV_POPULATE_READ alone": lambda mapping: mapping.madvise(MADV_POPULATE_READ, *span),
            "a request per 128 KiB, then MADV_POPULATE_READ": lambda mapping: requested(mapping, *span),
            "read through, the runtime's way": lambda mapping: self.file().read_through(*span),
            "the same, hashed": lambda mapping: self.hashed(span),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                self.drop([span])
                with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
                    started = time.perf_counter()
                    way(mapping)
                    if name != "sequential":
                        np.frombuffer(mapping, np.uint8)[span[0] : span[1] : mmap.PAGESIZE].sum()
                    seconds[name].append(time.perf_counter() - started)
        medians = {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
        return {name: {"ms": ms, "x sequential": ms / medians["sequential"]} for name, ms in medians.items()}

    def first_runs(self, rounds: int) -> dict[str, dict[str, float]]:
        """Time what a run with cold experts takes more than the runs after it."""
        usual = mmap.MADV_SEQUENTIAL
        kinds: dict[str, tuple[str | None, int]] = {"first run, named": (self.task, usual)}
        if self.routed:
            kinds |= {f"first run, routed, {name}": (None, getattr(mmap, name)) for name in ADVICES}
        else:
            kinds["first run, named, check_hashes"] = (self.task, usual)
        seconds: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, (task, advice) in kinds.items():
                spans = [self.named] if task else self.routed
                self.drop(spans)
                started = time.perf_counter()
                self.sequential(spans)
                sequential = time.perf_counter() - started
                self.drop(spans)
                seconds[name].append((sequential, *self.first_run(task, spans, advice, "check_hashes" in name)))
        figures = {}
        for name, rows in seconds.items():
            sequential, first, steady, reported = np.median(rows, axis=0).tolist()
            stall = float(np.median([row[1] - row[2] for row in rows]))
            milliseconds = {"sequential": sequential, "first": first, "steady": steady, "stall": stall, "reported": reported}
            figures[name] = {key: 1e3 * value for key, value in milliseconds.items()} | {"x sequential": stall / sequential}
        return figures

    def file(self) -> MappedFile:
        """Open the file of the experts as the runtime does."""
        return MappedFile(os.open(self.path, os.O_RDONLY), self.path, "it")

    def hashed(self, span: Span) -> None:
        """Hash the expert of an image bundle as `check_hashes` does, or a task's part of a page bank."""
        file = self.file()
        if span == (0, file.size):
            file.check_hash(self.sha256)
        else:
            hashlib.sha256(file.read(*span).data).hexdigest()

    def first_run(self, task: str | None, spans: Sequence[Span], advice: int, check_hashes: bool) -> tuple[float, float, float]:
        """Return seconds of the first run, of later ones, and of stalls by the runtime's account."""
        page_bank.ADVICE = advice
        with self.open(check_hashes) as model:
            if task is None:
                model.prepare_routing()
            for _ in range(3):
                model.scope.embed(self.pixels, self.other)
            self.drop(spans)
            before, times = model.stats().stall_seconds, []
            for _ in range(6):
                started = time.perf_counter()
                model.scope.embed(self.pixels, task)
                times.append(time.perf_counter() - started)
            return times[0], float(np.median(times[1:])), model.stats().stall_seconds - before

    def sequential(self, spans: Sequence[Span]) -> None:
        """Read the bytes with `read()`."""
        piece = bytearray(PIECE)
        with self.path.open("rb", buffering=0) as file:
            for start, end in spans:
                file.seek(start)
                for offset in range(start, end, PIECE):
                    file.readinto(memoryview(piece)[: min(PIECE, end - offset)])

    def drop(self, spans: Sequence[Span]) -> None:
        """Take the file out of the system's cache, and make sure that these bytes are out."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
                pages = np.frombuffer(mapping, np.uint8)
                cached = np.zeros(-(-len(pages) // mmap.PAGESIZE), np.uint8)
                address, where = ctypes.c_void_p(pages.ctypes.data), ctypes.c_void_p(cached.ctypes.data)
                if ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(len(pages)), where):
                    sys.exit(f"mincore failed: {os.strerror(ctypes.get_errno())}")
                del pages
        left = sum(int((cached[start // mmap.PAGESIZE : -(-end // mmap.PAGESIZE)] & 1).sum()) for start, end in spans)
        if left:
            sys.exit(f"{left} pages of {self.path} stay in the cache: close what else uses the bundle")

    def read_ahead_kib(self) -> int | None:
        """Return the read-ahead window of the device that the bundle lies on, where the system tells."""
        device = os.stat(self.path).st_dev
        setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        return int(setting.read_text()) if setting.exists() else None


if __name__ == "__main__":
    main()
