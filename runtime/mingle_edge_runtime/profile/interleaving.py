"""Runs of what is compared, taken in turn in one process, so that a machine that slows down slows down all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.profile.requests import Requests

Run: TypeAlias = Callable[[NDArray[np.float32], int], object]
"""Runs a batch of `pixel_values`; the number of the request says which task it names."""
_WARM_UP = 3  # rounds at least
_PAUSE = 0.005  # seconds, for the threads of the run before to fall asleep


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
