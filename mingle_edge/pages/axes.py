"""Axes of what is drawn along x: sizes, which may differ by orders of magnitude, and ratios, of which 1 is the middle.

An axis is a Vega-Lite scale and the ticks on it, made from the values that lie there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from mingle_edge.pages.vega import Spec

Axis: TypeAlias = tuple[Spec, Spec]
"""The scale and the axis as `vega.number` takes them."""
_LOGARITHMIC = 6  # times the least value: from there on sizes are drawn on a logarithmic axis
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)  # between ticks of ratios that
_CLOSE = 4  # times the least one at most; others have ticks at round digits
_MOST_TICKS = 6


def sizes(values: Sequence[float]) -> Axis:
    """Return an axis that is logarithmic where positive values differ by much, and linear without zero where they do not."""
    low, high = min(values), max(values)
    if low <= 0 or high <= _LOGARITHMIC * low:
        return {"zero": False, "nice": False, "padding": 8}, {"format": "~r", "tickCount": 5}
    scale = {"type": "log", "nice": False, "padding": 8}
    return scale, {"format": "~r", "values": _round(low, high, (1, 2, 5))}


def ratios(values: Iterable[float]) -> Axis:
    """Return a logarithmic axis, so that twice and half are as far from 1, with a bold `1 x` among its ticks.

    values: positive.
    """
    values = [1.0, *values]
    low, high = min(values), max(values)
    ticks = ratio_ticks(low, high)
    low, high = min(low, *ticks), max(high, *ticks)
    room = math.exp(0.04 * (math.log(high) - math.log(low)))
    bold = {"condition": {"test": "datum.value == 1", "value": "bold"}, "value": "normal"}
    scale = {"type": "log", "domain": [low / room, high * room], "nice": False}
    return scale, {"values": ticks, "labelExpr": "format(datum.value, '~r') + ' x'", "labelFontWeight": bold}


def ratio_ticks(low: float, high: float) -> list[float]:
    """Return two ticks or more for ratios from `low`, at most 1, to `high`, at least 1; 1 is one of them."""
    if high <= _CLOSE * low:
        for step in _STEPS:
            ticks = [round(i * step, 2) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
            if len(ticks) <= _MOST_TICKS:
                return ticks if len(ticks) > 1 else [1 - step, 1.0, 1 + step]
    for digits in ((1, 2, 5), (1,)):
        ticks = _round(low, high, digits)
        if len(ticks) <= _MOST_TICKS:
            return ticks
    apart = math.ceil(len(ticks) / _MOST_TICKS)
    return ticks[ticks.index(1.0) % apart :: apart]


def _round(low: float, high: float, digits: Sequence[int]) -> list[float]:
    """Return the values from `low` to `high` that are one of the digits times a power of ten."""
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [value for decade in decades for digit in digits if low <= (value := float(f"{digit}e{decade}")) <= high]
