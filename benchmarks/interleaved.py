"""Timing in turn: what is compared runs under the same load of the machine, so ratios of neighboring runs say most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

Seconds: TypeAlias = NDArray[np.float64]


class Compared(TypedDict):
    """Median milliseconds, and median and quartiles of the ratios to neighboring runs of something else."""

    median_ms: float
    ratio: float
    quartiles: tuple[float, float]


def time_in_turn(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Seconds]:
    """Run every way once a round, and return the seconds `[rounds]` of each.

    The order turns from round to round, so that none always follows the same other one.

    Args:
        warm_up: rounds before those that count.
        pause: seconds before each run, for threads of the run before to fall asleep.
        clock: what tells seconds.
    """
    names = list(ways)
    seconds = {name: np.empty(rounds) for name in names}
    for i in range(-warm_up, rounds):
        order = names[i % len(names) :] + names[: i % len(names)]
        for name in order if i % 2 else reversed(order):
            time.sleep(pause)
            started = clock()
            ways[name]()
            elapsed = clock() - started
            if i >= 0:
                seconds[name][i] = elapsed
    return seconds


def compare_in_turn(ways: Mapping[str, Callable[[], object]], rounds: int, **timing: Any) -> dict[str, Compared]:
    """Time ways as `time_in_turn` does, and return figures of each against the first."""
    seconds = time_in_turn(ways, rounds, **timing)
    first = next(iter(seconds.values()))
    return {name: compare(times, first) for name, times in seconds.items()}


def compare(times: Seconds, base: Seconds) -> Compared:
    """Return figures of runs whose neighbors were those of `base`."""
    low, ratio, high = np.percentile(times / base, (25, 50, 75)).tolist()
    return {"median_ms": 1e3 * float(np.median(times)), "ratio": ratio, "quartiles": (low, high)}


def shown(compared: Compared) -> str:
    """Write a ratio with its quartiles."""
    low, high = compared["quartiles"]
    return f"{compared['ratio']:.3f} x  ({low:.3f} to {high:.3f})"
