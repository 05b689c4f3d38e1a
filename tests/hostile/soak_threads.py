"""Many answers of several open bundles, from several threads that disturb each other, each compared with one thread's.

Threads classify, embed, route, submit and stream, and between these pin, prefetch, change budgets, and close a bundle under the
others and open it again. No result may depend on any of it, bit for bit; memory and open files must not grow.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mingle_edge_runtime import BudgetError, EdgeError, EdgeModel
from mingle_edge_runtime.ort.memory import process_memory

IMAGES = np.random.default_rng(7).integers(0, 256, (8, 14, 11, 3), dtype=np.uint8)
IMAGES[np.arange(6), ..., np.arange(6) % 3] |= 0xC0
IN_FLIGHT = 3  # submissions that a thread waits for together
_SAMPLE_EVERY = 0.5  # seconds
FRAMES = 4  # of a stream that a thread opens


@dataclass(frozen=True)
class Sample:
    """The process at one moment."""

    answers: int
    anonymous: int
    resident: int
    descriptors: int


@dataclass
class Soak:
    """Open bundles, the answers of one thread, and what the others found."""

    bundles: list[Path]
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """answers and disturbances by what they are"""
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    answers: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._rooms = [_Room(bundle, self.seed) for bundle in self.bundles]

    def run(self, answers: int, threads: int, tidy: Callable[[], object] = gc.collect) -> None:
        """Give `answers` answers from `threads` threads, and take samples meanwhile, each after a call of `tidy`."""
        workers = [threading.Thread(target=self._work, args=(number, answers)) for number in range(threads)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            tidy()
            self._sample()
            time.sleep(_SAMPLE_EVERY)
        for worker in workers:
            worker.join()
        tidy()
        self._sample()
        for room in self._rooms:
            self._count("evictions", room.close())

    def growth(self, what: str, warm_up: float = 0.2) -> float:
        """Slope of a fitted line, in bytes or descriptors an answer, of the samples after a share of the answers."""
        late = [sample for sample in self.samples if sample.answers >= warm_up * self.answers]
        x, y = (np.array([getattr(sample, name) for sample in late], np.float64) for name in ("answers", what))
        return float(np.polyfit(x - x.mean(), y, 1)[0]) if len(set(x)) > 1 else 0.0

    def _sample(self) -> None:
        memory = process_memory()
        descriptors = len(os.listdir("/proc/self/fd"))
        self.samples.append(Sample(self.answers, memory.anonymous or 0, memory.resident, descriptors))

    def _work(self, number: int, answers: int) -> None:
        random = Random(f"{self.seed} {number}")
        try:
            while self.answers < answers and not self.faults:
                room = random.choice(self._rooms)
                model = room.model
                try:
                    name, given = room.disturb(random) if random.random() < 0.12 else room.ask(model, random)
                except BudgetError:
                    name, given = "budget refused", 0
                except EdgeError as error:
                    if model is room.model or "again" not in str(error):  # "open it again"
                        raise
                    name, given = "refused by a closed model", 0
                self._count(name, max(given, 1))
                with self._lock:
                    self.answers += given
        except BaseException as error:
            self.faults.append(f"thread {number}: {type(error).__name__}: {error}")

    def _count(self, name: str, by: int) -> None:
        with self._lock:
            self.counts[name] += by


class _Room:
    """One bundle, open, and the answers it must give."""

    def __init__(self, bundle: Path, seed: int) -> None:
        self._bundle = bundle
        self._opening = threading.Lock()
        with self._open(None) as model:
            names: list[str | None] = [None, *model.tasks]
            self._tasks = list(model.tasks)
            self._size = max(task.expert_bytes for task in model.bundle.index.tasks)
            self._reuses = model.bundle.index.scope == "image"
            images = range(len(IMAGES))
            self._embeds = {(i, task): model.embed(IMAGES[i], task=task)[0].tobytes() for i in images for task in names}
            self._labels = {
                (i, task, head): model.classify(IMAGES[i], task=task, head=head)
                for i in images
                for task in names
                for head in names
            }
            self._routes = {i: model.route(IMAGES[i]) for i in images}
        self.model = self._open(None)
        self._evictions = 0

    def close(self) -> int:
        """Close the bundle. Returns how many experts were evicted in all."""
        self._evictions += self.model.stats().evictions
        self.model.close()
        return self._evictions

    def ask(self, model: EdgeModel, random: Random) -> tuple[str, int]:
        """Ask something and compare. Returns what it was, and the number of answers."""
        ways: dict[Callable[[EdgeModel, Random], int], int] = {
            self._classify: 40,
            self._embed: 30,
            self._route: 6,
            self._submit: 6,
            self._stream: 6,
        }
        (way,) = random.choices(list(ways), list(ways.values()))
        return way.__name__.strip("_"), way(model, random)

    def disturb(self, random: Random) -> tuple[str, int]:
        """Change what is resident, or close the bundle and open it again."""
        some = random.sample(self._tasks, random.randrange(len(self._tasks)))
        choice = random.randrange(100)
        if choice < 2:
            self._reopen(random)
            return "close and reopen", 0
        if choice < 35:
            self.model.set_expert_budget(self._budget(random))
            return "change of budget", 0
        if choice < 60:
            self.model.pin(some)
            return "pin", 0
        if choice < 95:
            self.model.prefetch(some)
            return "prefetch", 0
        stats = self.model.stats()
        if not 0 <= stats.resident_bytes <= stats.peak_bytes or stats.pinned_bytes < 0:
            raise AssertionError(f"{self._bundle.name}: {stats}")
        return "stats", 0

    def _open(self, budget: int | None) -> EdgeModel:
        return EdgeModel.open(self._bundle, expert_budget=budget, threads=1)

    def _reopen(self, random: Random) -> None:
        with self._opening:
            new = self._open(self._budget(random))
            old, self.model = self.model, new
            self._evictions += old.stats().evictions
            old.close()

    def _budget(self, random: Random) -> int | None:
        return random.choice((None, 2 * self._size, 3 * self._size, 5 * self._size))

    def _asked(self, random: Random) -> tuple[int, str | None, str | None]:
        names = [None, None, *self._tasks]
        return random.randrange(len(IMAGES)), random.choice(names), random.choice(names)

    def _compare(self, what: str, found: Any, reference: Any) -> None:
        if found != reference:
            raise AssertionError(f"{self._bundle.name}: {what} is {found}, of one thread {reference}"[:600])

    def _classify(self, model: EdgeModel, random: Random) -> int:
        key = image, task, head = self._asked(random)
        self._compare(f"classify{key}", model.classify(IMAGES[image], task=task, head=head), self._labels[key])
        return 1

    def _embed(self, model: EdgeModel, random: Random) -> int:
        image, task, _ = self._asked(random)
        self._compare(f"embed{image, task}", model.embed(IMAGES[image], task=task)[0].tobytes(), self._embeds[image, task])
        return 1

    def _route(self, model: EdgeModel, random: Random) -> int:
        image, _, _ = self._asked(random)
        self._compare(f"route{image}", model.route(IMAGES[image]), self._routes[image])
        return 1

    def _submit(self, model: EdgeModel, random: Random) -> int:
        keys = [self._asked(random) for _ in range(IN_FLIGHT)]
        futures = []
        try:
            for image, task, head in keys:
                futures.append(model.submit(IMAGES[image], task=task, head=head))
        finally:  # what was submitted before a model was closed is answered all the same, or says so
            for key, future in zip(keys, futures, strict=False):
                self._compare(f"submit{key}", future.result(), self._labels[key])
        return len(futures)

    def _stream(self, model: EdgeModel, random: Random) -> int:
        image, _, head = self._asked(random)
        stream = model.stream(reuse=self._reuses and random.random() < 0.5)
        for _ in range(FRAMES):
            self._compare(f"stream{image, head}", [stream.classify(IMAGES[image], head=head)], self._labels[image, None, head])
        return FRAMES
