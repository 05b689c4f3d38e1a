"""A comparison of two profiles on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mingle_edge.cli.profile.table import milliseconds, signed_bytes

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import Comparison, Figure

_NAME = 32  # characters


def comparison_table(comparison: Comparison) -> Iterator[str]:
    """A line for each figure with its verdict, then what else differs."""
    yield f"{'':<{_NAME}}{'before':>10} {'after':>10}   change  95% interval     verdict"
    for figure in comparison.figures:
        name = figure.name if len(figure.name) < _NAME else figure.name[: _NAME - 4] + "..."
        change = f"{figure.change:.3f}" if figure.change is not None else "-"
        interval = f"{figure.interval[0]:.3f} to {figure.interval[1]:.3f}" if figure.interval else ""
        values = f"{_value(figure, figure.before):>10} {_value(figure, figure.after):>10}"
        yield f"{name:<{_NAME}}{values} {change:>8}  {interval:<15}  {figure.verdict}"
    found = [f"{figure.name} {figure.verdict}" for figure in comparison.figures if figure.verdict in ("slower", "more")]
    yield f"\nregressions beyond the noise: {', '.join(found) or 'none'}"
    if any(figure.verdict == "as dense" for figure in comparison.figures):
        yield "as dense: the time changed and its ratio to dense did not, so the machine did, not the bundle"
    yield from (f"warning: {warning}" for warning in comparison.warnings)


def _value(figure: Figure, value: float) -> str:
    if figure.unit == "seconds":
        return f"{milliseconds(value)} ms"
    return signed_bytes(int(value)) if figure.unit == "bytes" else f"{value:.3f} x"
