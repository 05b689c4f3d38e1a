"""Runs of what is compared, taken in turn in one process, so that a machine that slows down slows down all of it; the requests
that they serve, and the memory of the process between them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.ort.memory import process_memory
from mingle_edge_runtime.profile.report import Memory, Switch
from mingle_edge_runtime.serving.edge_model import EdgeModel

Run: TypeAlias = Callable[[NDArray[np.float32], int], object]
"""Runs a batch of `pixel_values`; the number of the request says which task it names."""
_WARM_UP = 3  # rounds at least
_PAUSE = 0.005  # seconds, for the threads of the run before to fall asleep


@dataclass(frozen=True)
class Requests:
    """The requests everything is timed on, which name every task in turn, for `every` requests each."""

    tasks: int
    """how many there are"""
    every: int = 1

    def task(self, request: int) -> int:
        """Return the number of the task that a request names."""
        return request // self.every % self.tasks

    def switches(self, request: int) -> bool:
        """Return whether a request names another task than the one before."""
        return request > 0 and self.task(request) != self.task(request - 1)

    def switch(self, seconds: Sequence[float]) -> Switch | None:
        """Return what a change of task costs, of the times of requests 0, 1 ...; None where there are too few."""
        switching = [value for i, value in enumerate(seconds) if self.switches(i)]
        staying = [value for i, value in enumerate(seconds) if i and not self.switches(i)]
        if not switching:
            return None
        return Switch(float(np.median(switching)), float(np.median(staying)) if staying else None, max(seconds))


def model_kinds(model: EdgeModel, requests: Requests) -> dict[str, Run]:
    """Return runs that are told the task, and runs that find the route."""
    return {
        "named": lambda values, request: model.scope.embed(values, model.tasks[requests.task(request)]),
        "routed": lambda values, request: model.scope.embed(values),
    }


def interleave(
    kinds: Mapping[str, Run],
    pixels: NDArray[np.float32],
    sizes: Mapping[str, int],
    rounds: int,
    times: dict[str, list[float]],
    tick: Callable[[], None],
    step: int = 1,
) -> None:
    """Append the seconds of every run to `times` by kind; in each round all kinds run, on the same images.

    sizes: images per run of each kind. step: between the numbers of the requests, which begin at 0.
    The order is another one in each round, and turns round every other time, so that none always follows the same other
    one. Interrupted, `times` keeps whole rounds.
    """
    names = list(kinds)
    for name in names:
        times.setdefault(name, [])
    try:
        for i in range(rounds):
            order = names[i % len(names) :] + names[: i % len(names)]
            for name in order if i % 2 else reversed(order):
                values = pixels[np.arange(i * sizes[name], (i + 1) * sizes[name]) % len(pixels)]
                time.sleep(_PAUSE)
                times[name].append(seconds_of(kinds[name], values, i * step))
                tick()
    finally:
        whole = min((len(times[name]) for name in names), default=0)
        for name in names:
            del times[name][whole:]


def warm_up(
    kinds: Mapping[str, Run], pixels: NDArray[np.float32], size: int, requests: Requests, tick: Callable[[], None]
) -> None:
    """Run each kind `warm_up_rounds` times, untimed, so that each task is named."""
    interleave(kinds, pixels, dict.fromkeys(kinds, size), warm_up_rounds(requests), {}, tick, requests.every)


def warm_up_rounds(requests: Requests) -> int:
    """Return the number of rounds that `warm_up` takes."""
    return max(_WARM_UP, requests.tasks)


def seconds_of(call: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def memory_now() -> Memory:
    """Return what the process has resident; the peak so far where the system tells no more."""
    memory = process_memory()
    return Memory(memory.resident, memory.anonymous, memory.file)


def memory_before() -> Memory:
    """Give back what was freed, so that nothing opened next hides in it (with glibc alone), and return `memory_now`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return memory_now()
