"""Charts of the profile: bars, ratios, runs in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mingle_edge.pages.drawing import chart, percent
from mingle_edge.pages.elements import Html, tag

_ROW = 40  # pixels: a line of text and what is drawn under it
_THICK, _THIN = 12, 8  # pixels, of bars
_LINE = 120  # pixels, the height of a chart over runs


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart."""

    label: str
    shown: str
    """the value as text"""
    parts: tuple[tuple[str, float], ...]
    """class and length of each part, one after another"""
    reach: float | None = None
    """where a thin line from the end of the bar goes"""
    under: tuple[str, float] | None = None
    """class and length of a second bar, to compare with the first"""


@dataclass(frozen=True)
class Span:
    """One row of a chart of ratios."""

    label: str
    shown: str
    kind: str
    """class"""
    low: float
    middle: float
    high: float


def bars(title: str, rows: Sequence[Bar]) -> Html:
    """Horizontal bars from zero on one scale."""
    scale = 100 / (max(map(_length, rows), default=0.0) or 1.0)  # percent per unit
    drawn = []
    for i, row in enumerate(rows):
        top, start = i * _ROW, 0.0
        drawn += _texts(row.label, row.shown, top)
        for kind, length in row.parts:
            width = max(length, 0.0) * scale
            height = _THICK if row.under is None else _THIN
            drawn.append(tag("rect", x=percent(start), y=top + 20, width=percent(width), height=height, class_=f"fill {kind}"))
            start += width
        if row.under is not None:
            kind, length = row.under
            drawn.append(tag("rect", x=0, y=top + 30, width=percent(length * scale), height=_THIN, class_=f"fill {kind}"))
        if row.reach is not None:
            y = top + 26
            drawn.append(tag("line", x1=percent(start), x2=percent(row.reach * scale), y1=y, y2=y, class_="reach"))
    return chart(title, drawn, len(rows) * _ROW)


def spans(title: str, rows: Sequence[Span]) -> Html:
    """Intervals with their middle, on one scale from zero, and a line at 1."""
    scale = 96 / max(1.0, *(row.high for row in rows))
    height = len(rows) * _ROW
    drawn = [tag("line", x1=percent(scale), x2=percent(scale), y1=0, y2=height, class_="one")]
    for i, row in enumerate(rows):
        y = i * _ROW + 27
        drawn += _texts(row.label, row.shown, i * _ROW)
        ends = {"x1": percent(row.low * scale), "x2": percent(row.high * scale)}
        drawn.append(tag("line", y1=y, y2=y, class_=f"span {row.kind}", **ends))
        drawn.append(tag("circle", cx=percent(row.middle * scale), cy=y, r=5, class_=f"fill {row.kind}"))
    return chart(title, drawn, height)


def lines(title: str, series: Sequence[tuple[str, Sequence[float]]], top: str, last: str) -> Html:
    """One line per class and values, over runs; top: the largest value as text, last: the last run's number."""
    highest = max((value for _, values in series for value in values), default=0.0) or 1.0
    length = max(len(values) for _, values in series)
    drawn = []
    for kind, values in series:
        points = " ".join(f"{i},{100 - 100 * value / highest:.2f}" for i, value in enumerate(values))
        drawn.append(tag("polyline", points=points, class_=f"stroke {kind}"))
    plot = tag(
        "svg", *drawn, y=18, width="100%", height=_LINE, viewBox=f"0 -2 {max(length - 1, 1)} 104", preserveAspectRatio="none"
    )
    base = tag("line", x1="0%", x2="100%", y1=18 + _LINE, y2=18 + _LINE, class_="reach")
    words = [*_texts(top, "", 0), *_texts("run 1", f"run {last}", 18 + _LINE + 4)]
    return chart(title, [plot, base, *words], _LINE + 44)


def _texts(left: str, right: str, top: int) -> list[Html]:
    found = [tag("text", left, x=0, y=top + 14)]
    return [*found, tag("text", right, x="100%", y=top + 14, text_anchor="end", class_="value")] if right else found


def _length(row: Bar) -> float:
    """How far everything in the row goes."""
    first = sum(max(length, 0.0) for _, length in row.parts)
    return max(first, row.reach or 0.0, row.under[1] if row.under else 0.0)
