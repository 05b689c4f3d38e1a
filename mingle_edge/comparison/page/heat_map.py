"""A heat map: rows with names, columns with numbers, cells the more coloured the higher their value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mingle_edge.comparison.wording import finite, percentage, shorten
from mingle_edge.pages.drawing import chart, percent
from mingle_edge.pages.elements import Html, tag

_FEW = 10  # columns: up to as many, every cell shows its value
_TALL, _LOW = 24, 14  # pixels, of a row with values and without
_HEAD = 16  # pixels
_PALE = 0.52  # opacity from which on text on a cell is in the other colour
_NAME = 15  # letters
_BAR = 16  # steps of the bar of colours


@dataclass(frozen=True)
class Scale:
    """How strongly a value is coloured."""

    low: float
    high: float
    power: float = 1.0
    """below 1 small values show more"""

    def strength(self, value: float) -> float:
        """From 0, no colour, to 1."""
        return math.pow(min(max((value - self.low) / ((self.high - self.low) or 1.0), 0.0), 1.0), self.power)

    def value(self, strength: float) -> float:
        """What is coloured that strongly."""
        return self.low + (self.high - self.low) * math.pow(strength, 1 / self.power)


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], scale: Scale, says: str
) -> Html:
    """Values `[rows][columns]` in percent, with a frame around the diagonal; None stays empty.

    Columns are named by their number, as rows are; a last column without a row of its own by its first word. `says` is how a
    cell is told, like `after {row}: {column}`.
    """
    height = _TALL if len(columns) <= _FEW else _LOW
    drawn = [*_heads(columns, len(rows))]
    for i, (row, cells) in enumerate(zip(rows, values, strict=True)):
        y = i * height + height / 2
        name = shorten(f"{i + 1} {row}", _NAME)
        drawn.append(tag("text", tag("title", row), name, x=-6, y=_HEAD + y, dy=4, class_="row"))
        told = [
            f"{says.format(row=row, column=column)} {percentage(cell)}%" for column, cell in zip(columns, cells, strict=True)
        ]
        line = [*_cells(i, cells, told, height, scale)]
        drawn.append(tag("svg", *line, y=_HEAD + i * height, height=height, class_="cells"))
    return tag("div", chart(title, drawn, _HEAD + len(rows) * height + 2), class_="plot heat")


def _cells(i: int, cells: Sequence[float | None], told: Sequence[str], height: int, scale: Scale) -> Iterator[Html]:
    count = len(cells)
    for j, cell in enumerate(cells):
        if (value := finite(cell)) is None:
            continue
        strength = scale.strength(value)
        own = "own" if i == j else None
        place = {"x": percent(100 * j / count), "width": percent(100 / count), "height": height}
        yield tag("rect", tag("title", told[j]), fill_opacity=_opacity(strength), class_=own, **place)
        if count <= _FEW:
            shade = "on" if strength > _PALE else "off"
            middle = percent(100 * (j + 0.5) / count)
            yield tag("text", f"{value:.0f}", x=middle, y=height / 2, dy=4, class_=f"number {shade}")


def _heads(columns: Sequence[str], rows: int) -> Iterator[Html]:
    """Numbers of columns, all of few or every fifth of many, and the name of a column beyond the rows."""
    count = len(columns)
    for i, name in enumerate(columns):
        beyond = i >= rows
        if count <= _FEW or beyond or i == 0 or ((i + 1) % 5 == 0 and i < rows - 3 * (count > rows)):
            anchor = {"x": "100%", "text_anchor": "end"} if beyond else {"x": percent(100 * (i + 0.5) / count)}
            text = name.split()[0] if beyond else str(i + 1)
            yield tag("text", tag("title", name), text, y=_HEAD - 4, class_="tick head", **anchor)


def scale_bar(scale: Scale) -> Html:
    """What the colours mean, with the value in the middle."""
    cells = [
        tag("rect", x=percent(i * 100 / _BAR), width=percent(100.5 / _BAR), height=10, fill_opacity=_opacity((i + 0.5) / _BAR))
        for i in range(_BAR)
    ]
    texts = [
        tag("text", f"{scale.value(at):.0f}%", x=percent(100 * at), y=24, text_anchor=anchor, class_="tick")
        for at, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    ]
    return tag("div", chart("Colours", [tag("svg", *cells, height=10, class_="cells even"), *texts], 28), class_="scale")


def _opacity(strength: float) -> str:
    return f"{0.03 + 0.97 * strength:.2f}"
