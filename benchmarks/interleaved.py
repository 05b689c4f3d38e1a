"""Timing in turn: what is compared runs under the same load of the machine, so ratios of neighboring runs say most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


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


def quartiles_of_ratios(times: Seconds, base: Seconds) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile of the ratios of neighboring runs."""
    low, middle, high = np.percentile(times / base, (25, 50, 75)).tolist()
    return low, middle, high
