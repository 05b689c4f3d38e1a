"""Byte counts as people write and read them."""

from __future__ import annotations

import click

from mingle_edge.core.wording import megabytes


def byte_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read an option's bytes; see `parse_byte_size`."""
    from mingle_edge_runtime import BudgetError
    from mingle_edge_runtime.experts.byte_size import parse_byte_size

    try:
        return None if value is None else parse_byte_size(value)
    except BudgetError as error:
        raise click.BadParameter(str(error)) from None


def format_bytes(size: int) -> str:
    """Return a byte count in units of 10^6 bytes, the same everywhere so that two can be compared, as in `44.1 MB`."""
    return f"{megabytes(size)} MB"
