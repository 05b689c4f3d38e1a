"""Figures as text, the same in tables, on pages and in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

MISSING = "-"
"""What is shown where there is no figure."""


def name_of_stage(name: str, blocks: int) -> str:
    """Write a stage of the router: `pixels`, `2 blocks`, `embedding`."""
    return count(blocks, "block") if name == "blocks" else name


def finite(value: Any) -> float | None:
    """Return the value where it is a finite number; None for what was not measured."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def percentage(value: Any) -> str:
    """Write `81.5`: one digit after the point, as in the published tables."""
    return _shown(value, lambda number: f"{round(number, 1) + 0.0:.1f}")


def difference(value: Any) -> str:
    """Write `+1.2`, `-2.6` or `0.0`."""
    return _shown(value, lambda number: f"{round(number, 1):+.1f}" if round(number, 1) else "0.0")


def digits(number: float) -> str:
    """Write a positive number with three digits or more: `0.123`, `1.23`, `12.3`, `1234`."""
    return f"{number:.{3 if number < 1 else 2 if number < 10 else 1 if number < 1000 else 0}f}"


def megabytes(size: Any) -> str:
    """Write a size in units of 10^6 bytes, without the unit."""
    return _shown(size, lambda number: digits(number / 1e6))


def times(ratio: Any) -> str:
    """Write `1.17`, a multiple of something."""
    return _shown(ratio, "{:.2f}".format)


def _shown(value: Any, show: Callable[[float], str]) -> str:
    number = finite(value)
    return MISSING if number is None else show(number)


def count(number: int, noun: str) -> str:
    """Write `no tasks`, `1 task`, `20 tasks`."""
    return f"{number or 'no'} {noun}" + ("" if number == 1 else "s")
