"""A profile, and a comparison of two, on a terminal: 80 columns of plain text."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

from mingle_edge.cli.profile.tables import ms, notes, sections, size, summary, timed_once
from mingle_edge.cli.text_table import text_table

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import Comparison, Figure, ProfileReport

_WIDTH = 80  # characters


def profile_lines(report: ProfileReport) -> Iterator[str]:
    """Yield the whole report, line by line."""
    yield f"{report.bundle.name}: {summary(report)}"
    if not report.complete:
        yield "INTERRUPTED: what follows was measured before, the rest is missing"
    if report.busy:
        yield from wrap(f"warning: {report.busy}", _WIDTH)
    yield from wrap(", ".join(f"{name} {value}" for name, value in timed_once(report).items()), _WIDTH)
    for section in sections(report):
        yield ""
        yield from wrap(f"{section.title}. {section.about}", _WIDTH)
        for table in section.tables:
            if table.rows and not table.fold:
                yield from text_table(table.head, table.rows)
    yield from (f"note: {note}" for note in notes(report))


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yield a line for each figure with its verdict, then what else differs."""
    rows = []
    for figure in comparison.figures:
        change = f"{figure.change:.3f}" if figure.change is not None else "-"
        interval = f"{figure.interval[0]:.3f} to {figure.interval[1]:.3f}" if figure.interval else ""
        values = (_value(figure, value) for value in (figure.before, figure.after))
        rows.append([figure.name, *values, change, interval, figure.verdict])
    yield from text_table(["", "before", "after", "change", "95% interval", "verdict"], rows)
    worse = [f"{figure.name} {figure.verdict}" for figure in comparison.regressions(percent=0)]
    yield f"\nregressions beyond the noise: {', '.join(worse) or 'none'}"
    if any(figure.verdict == "as dense" for figure in comparison.figures):
        yield "as dense: the time changed and its ratio to dense did not, so the machine did, not the bundle"
    yield from (f"warning: {warning}" for warning in comparison.warnings)


def _value(figure: Figure, value: float) -> str:
    if figure.unit == "seconds":
        return f"{ms(value)} ms"
    return size(int(value)) if figure.unit == "bytes" else f"{value:.3f} x"
