"""Byte counts as people write and read them."""

from __future__ import annotations

import click


def byte_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read an option's bytes; see `parse_byte_size`."""
    from mingle_edge_runtime import BudgetError
    from mingle_edge_runtime.experts.byte_size import parse_byte_size

    try:
        return None if value is None else parse_byte_size(value)
    except BudgetError as error:
        raise click.BadParameter(str(error)) from None


def format_bytes(size: int) -> str:
    """Return a byte count in the unit that keeps it between 1 and 1000, as in `44.1 MB`."""
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
