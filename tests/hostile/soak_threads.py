"""Many answers of several open bundles, from several threads that disturb each other, each compared with one thread's.

Threads classify, embed, route, submit and stream, and between these pin, prefetch, change budgets, and close a bundle under the
others and open it again. No result may depend on any of it, bit for bit; memory and open files must not grow.
"""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np

from mingle_edge_runtime import BudgetError, EdgeError, EdgeModel, Prediction
from mingle_edge_runtime.ort.memory import process_memory

IMAGES = np.random.default_rng(7).integers(0, 256, (8, 14, 11, 3), dtype=np.uint8)
IMAGES[np.arange(6), ..., np.arange(6) % 3] |= 0xC0
IN_FLIGHT = 3  # submissions that a thread waits for together
_SAMPLE_EVERY = 0.5  # seconds
FRAMES = 4  # of a stream that a thread opens
Key: TypeAlias = tuple[int, str | None, str | None]
"""image, task and head"""


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
        self._rooms = [_Room(bundle) for bundle in self.bundles]

    def run(self, answers: int, threads: int, tidy: Callable[[], object] = gc.collect) -> None:
        """Give `answers` answers from `threads` threads, and take samples meanwhile, each after a call of `tidy`."""
        with ThreadPoolExecutor(threads) as pool:
            workers = [pool.submit(self._work, number, answers) for number in range(threads)]
            while not all(worker.done() for worker in workers):
                self._sample(tidy)
                time.sleep(_SAMPLE_EVERY)
        self._sample(tidy)
        for room in self._rooms:
            self._count("evictions", room.close())

    def growth(self, what: str, warm_up: float = 0.2) -> float:
        """Slope of a fitted line, in bytes or descriptors an answer, of the samples after a share of the answers."""
        late = [sample for sample in self.samples if sample.answers >= warm_up * self.answers]
        x, y = (np.array([getattr(sample, name) for sample in late], np.float64) for name in ("answers", what))
        return float(np.polyfit(x - x.mean(), y, 1)[0]) if len(set(x)) > 1 else 0.0

    def _sample(self, tidy: Callable[[], object]) -> None:
        tidy()
        memory, descriptors = process_memory(), len(os.listdir("/proc/self/fd"))
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

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self._opening = threading.Lock()
        with self._open(None) as model:
            self._tasks = list(model.tasks)
            names = [None, *self._tasks]
            self._size = max(task.expert_bytes for task in model.bundle.index.tasks)
            self._reuses = model.bundle.index.scope == "image"
            asked = list(itertools.product(range(len(IMAGES)), names, names))
            self._labels = {key: model.classify(IMAGES[key[0]], task=key[1], head=key[2]) for key in asked}
            self._embeds = {key[:2]: model.embed(IMAGES[key[0]], task=key[1])[0].tobytes() for key in asked}
            self._routes = [model.route(image) for image in IMAGES]
        self.model = self._open(None)
        self._evictions = 0

    def close(self) -> int:
        """Close the bundle. Returns how many experts were evicted in all."""
        self._evictions += self.model.stats().evictions
        self.model.close()
        return self._evictions

    def ask(self, model: EdgeModel, random: Random) -> tuple[str, int]:
        """Ask something and compare. Returns what it was, and the number of answers."""
        (name,) = random.choices(("classify", "embed", "route", "submit", "stream"), (40, 30, 6, 6, 6))
        key = image, task, head = self._asked(random)
        if name == "classify":
            self._compare(f"classify{key}", model.classify(IMAGES[image], task=task, head=head), self._labels[key])
        elif name == "embed":
            self._compare(f"embed{key[:2]}", model.embed(IMAGES[image], task=task)[0].tobytes(), self._embeds[key[:2]])
        elif name == "route":
            self._compare(f"route{image}", model.route(IMAGES[image]), self._routes[image])
        elif name == "submit":
            return name, self._submit(model, [key, *(self._asked(random) for _ in range(IN_FLIGHT - 1))])
        else:
            stream, expected = model.stream(reuse=self._reuses and random.random() < 0.5), self._labels[image, None, head]
            for _ in range(FRAMES):
                self._compare(f"stream{image, head}", [stream.classify(IMAGES[image], head=head)], expected)
            return name, FRAMES
        return name, 1

    def _submit(self, model: EdgeModel, keys: list[Key]) -> int:
        futures: list[Future[list[Prediction]]] = []
        try:
            for image, task, head in keys:
                futures.append(model.submit(IMAGES[image], task=task, head=head))
        finally:  # what was submitted before a model was closed is answered all the same, or says so
            for key, future in zip(keys, futures, strict=False):
                self._compare(f"submit{key}", future.result(), self._labels[key])
        return len(futures)

    def disturb(self, random: Random) -> tuple[str, int]:
        """Change what is resident, or close the bundle and open it again."""
        some = random.sample(self._tasks, random.randrange(len(self._tasks)))
        budget = random.choice((None, 2 * self._size, 3 * self._size, 5 * self._size))
        names = ("close and reopen", "change of budget", "pin", "prefetch", "stats")
        (name,) = random.choices(names, (2, 33, 25, 35, 5))
        if name == "close and reopen":
            with self._opening:
                old, self.model = self.model, self._open(budget)
                self._evictions += old.stats().evictions
                old.close()
        elif name == "change of budget":
            self.model.set_expert_budget(budget)
        elif name == "pin":
            self.model.pin(some)
        elif name == "prefetch":
            self.model.prefetch(some)
        else:
            stats = self.model.stats()
            if not 0 <= stats.resident_bytes <= stats.peak_bytes or stats.pinned_bytes < 0:
                raise AssertionError(f"{self._bundle.name}: {stats}")
        return name, 0

    def _open(self, budget: int | None) -> EdgeModel:
        return EdgeModel.open(self._bundle, expert_budget=budget, threads=1)

    def _asked(self, random: Random) -> Key:
        names = [None, None, *self._tasks]
        return random.randrange(len(IMAGES)), random.choice(names), random.choice(names)

    def _compare(self, what: str, answer: Any, reference: Any) -> None:
        if answer != reference:
            raise AssertionError(f"{self._bundle.name}: {what} is {answer}, of one thread {reference}"[:600])
