"""Byte counts as people write and read them."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


def byte_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read an option's bytes from `64MB` (10^6), `64MiB` (2^20) or a plain number."""
    if value is None:
        return None
    match = _PATTERN.fullmatch(value.strip())
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None:
        raise click.BadParameter(f"{value!r} is no size; write it like 64MB, 64MiB or 64000000")
    try:
        return int(float(match.group(1)) * unit)
    except OverflowError:
        raise click.BadParameter(f"{value!r} is more than any memory has") from None


def format_bytes(size: int) -> str:
    """Return a byte count in the unit that keeps it between 1 and 1000, as in `44.1 MB`."""
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
