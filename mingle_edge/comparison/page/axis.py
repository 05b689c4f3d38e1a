"""Where values lie along an axis, and which of them are written beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LOGARITHMIC = 6  # times the least value: from there on sizes are drawn on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """A range of values with some of them named."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    """value and text"""
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """From 0 at the low end to 1 at the high end."""
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)


def linear(title: str, values: Sequence[float], most: float = math.inf, ticks: int = 5) -> Axis:
    """An axis over all values with a little room on both sides, which ends at `most` where that is reached."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.07 or max(abs(high) * 0.05, 1.0)
    low, high = low - room, min(high + room, most) if high < most else most
    step = _step((high - low) / ticks)
    first = math.ceil(low / step - 1e-9)
    marks = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(title, low, high, tuple((mark, f"{mark:g}") for mark in marks))


def sizes(title: str, values: Sequence[float]) -> Axis:
    """An axis over positive values, logarithmic where they differ by much."""
    if not values or min(values) <= 0 or max(values) < _LOGARITHMIC * min(values):
        return linear(title, values)
    low, high = min(values) / 1.15, max(values) * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in ((1, 2, 5) if len(decades) <= 4 else (1,))]
    return Axis(title, low, high, tuple((tick, f"{tick:g}") for tick in ticks if low <= tick <= high), logarithmic=True)


def _step(least: float) -> float:
    """The least of 1, 2, 5, 10, ... times a power of ten that isn't below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))
