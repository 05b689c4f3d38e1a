"""The options of `profile` that take lists."""

from __future__ import annotations

from collections.abc import Iterable

import click

from mingle_edge.cli.byte_size import byte_size


def baseline_list(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Callback of an option: the names in `dense,reload`; `profile` knows which there are."""
    return tuple(name.strip() for name in value.split(",")) if value else ()


def sweep_axes(ctx: click.Context, param: click.Parameter, value: Iterable[str]) -> dict[str, list[int | str | None]]:
    """Callback of a repeatable option: values by axis of `threads=1,2,batch,budget=all,64MB`.

    A part with "=" or the name of an axis begins an axis; any other is one more value of the axis before.
    """
    from mingle_edge_runtime.profile import AXES

    axes: dict[str, list[int | str | None]] = {}
    for part in (part.strip() for text in value for part in text.split(",")):
        axis, equals, first = part.partition("=")
        if axis in AXES:
            if axis in axes:
                raise click.BadParameter(f"{axis} is given twice: write it once, with all its values")
            axes[axis] = [_value(ctx, param, axis, first)] if equals else []
        elif axes and (values := axes[next(reversed(axes))]):
            values.append(_value(ctx, param, next(reversed(axes)), part))
        else:
            raise click.BadParameter(f"{part!r} is no axis; choose from {', '.join(AXES)}, with values as in threads=1,2")
    return axes


def _value(ctx: click.Context, param: click.Parameter, axis: str, text: str) -> int | str | None:
    if not text:
        raise click.BadParameter(f"{axis}= has an empty value; write it like {axis}=1,2, or {axis} alone")
    if axis == "precision":
        return text
    if axis == "budget":
        return None if text == "all" else byte_size(ctx, param, text)
    if not text.isdecimal():
        raise click.BadParameter(f"{axis}={text!r} is no whole number; write it like {axis}=1,2")
    return int(text)
