"""Bytes of an expert budget as people write them: a number, or a text with a unit."""

from __future__ import annotations

import operator
import re
from decimal import Decimal

from mingle_edge_runtime.errors import BudgetError

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_MOST = 1 << 63
"""bytes that no address space has"""


def parse_byte_size(text: str) -> int:
    """Return the bytes of `64MB` or `64M` (10^6), `64MiB` (2^20), `1.5 GB` or a plain number, rounded down.

    Raises `BudgetError`.
    """
    match = _PATTERN.fullmatch(text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise BudgetError(f"{text!r} is no size; write it like 64MB, 64MiB or 64000000")
    size = Decimal(match[1]) * unit
    if size >= _MOST:
        raise BudgetError(f"{text!r} is more than any memory has")
    return int(size)


def budget_bytes(budget: int | str | None) -> int | None:
    """Return the bytes of a budget given as a number or as `parse_byte_size` reads it; None for none.

    Raises `BudgetError`, also for what is neither.
    """
    if budget is None:
        return None
    if isinstance(budget, str):
        return parse_byte_size(budget)
    try:
        if isinstance(budget, bool):
            raise TypeError
        return operator.index(budget)
    except TypeError:
        raise BudgetError(
            f"an expert budget is {budget!r}, must be a whole number of bytes, a text like '64MB', or None for no limit"
        ) from None
