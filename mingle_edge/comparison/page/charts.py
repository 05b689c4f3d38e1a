"""Charts of a comparison: points with names, curves over steps, trials; pixels high and percent wide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mingle_edge.comparison.page.axis import Axis
from mingle_edge.comparison.page.label_places import Place, apart, places
from mingle_edge.comparison.wording import shorten
from mingle_edge.pages.drawing import chart, percent
from mingle_edge.pages.elements import Html, join, tag

_LETTER = 7.3  # pixels, the widest that letters of 12 px are on average in usual fonts
_NARROW = (222, 400, 18)  # least width of the drawing, height, letters of a name: on a phone
_WIDE = (455, 400, 34)  # the same from a tablet on
_LINE = 15  # pixels between names at the ends of curves


@dataclass(frozen=True)
class Point:
    """A method in a scatter chart."""

    name: str
    kind: str
    """`reference`, `single` or `experts`"""
    x: float
    y: float
    told: str
    """shown while the pointer rests on it"""


@dataclass(frozen=True)
class Curve:
    """Values over steps; None where there is none."""

    name: str
    kind: str
    """class"""
    mean: Sequence[float | None]
    deviation: Sequence[float | None]


def scatter(title: str, points: Sequence[Point], across: Axis, up: Axis) -> Html:
    """Points with their names, drawn for narrow and for wide screens."""
    return join(
        tag("div", _scatter(title, points, across, up, *_NARROW), class_="plot narrow"),
        tag("div", _scatter(title, points, across, up, *_WIDE), class_="plot wide"),
    )


def _scatter(title: str, points: Sequence[Point], across: Axis, up: Axis, width: int, height: int, letters: int) -> Html:
    names = [shorten(point.name, letters) for point in points]
    shares = [(across.share(point.x), 1 - up.share(point.y)) for point in points]
    found = places([(x * width, y * height) for x, y in shares], [len(name) * _LETTER for name in names], width, height)
    marks = [
        _mark(point, name, x, y * height, place)
        for point, name, (x, y), place in zip(points, names, shares, found, strict=True)
    ]
    unnamed = [point.name for point, place in zip(points, found, strict=True) if place is None]
    svg = chart(title, [*_grid(across, up, height), *marks], height + 36)
    return join(svg, tag("p", f"No room for the names of {', '.join(unnamed)}.", class_="about")) if unnamed else svg


def _grid(across: Axis, up: Axis, height: int) -> Iterator[Html]:
    """Lines at the ticks, their texts, and the titles of the axes."""
    yield from _levels(up, height)
    for value, text in across.ticks:
        x = percent(100 * across.share(value))
        yield tag("line", x1=x, x2=x, y1=0, y2=height, class_="grid-line")
        yield tag("text", text, x=x, y=height + 15, text_anchor="middle", class_="tick")
    yield tag("text", across.title, x="100%", y=height + 32, text_anchor="end", class_="axis")
    yield tag("text", up.title, x=-30, y=-8, class_="axis")


def _levels(up: Axis, height: int) -> Iterator[Html]:
    """A line across and a text for each tick."""
    for value, text in up.ticks:
        y = f"{(1 - up.share(value)) * height:.1f}"
        yield tag("line", x1=0, x2="100%", y1=y, y2=y, class_="grid-line")
        yield tag("text", text, x=-6, y=y, dy=4, text_anchor="end", class_="tick")


def _mark(point: Point, name: str, x: float, y: float, place: Place | None) -> Html:
    """A point and its name; inside, pixels from the middle of the point."""
    shape = {
        "reference": tag("rect", x=-4.5, y=-4.5, width=9, height=9, transform="rotate(45)", class_="mark"),
        "single": tag("rect", x=-4.5, y=-4.5, width=9, height=9, class_="mark"),
    }.get(point.kind, tag("circle", r=5.5, class_="mark"))
    drawn = [tag("title", point.told), shape]
    if place is not None:
        if not place.beside:
            end = place.down - (0 if place.side else math.copysign(7, place.down))
            drawn.insert(1, tag("line", x1=0, y1=0, x2=place.across - 2 * place.side, y2=f"{end:.1f}", class_="leader"))
        anchor = {1: "start", 0: "middle", -1: "end"}[place.side]
        drawn.append(tag("text", name, x=place.across, y=f"{place.down:.1f}", dy=4, text_anchor=anchor, class_="name"))
    return tag("svg", *drawn, x=percent(100 * x), y=f"{y:.1f}", class_=f"point {point.kind}")


def curves(title: str, series: Sequence[Curve], up: Axis, height: int, named: bool) -> Html:
    """Means as lines over their bands of one deviation; named: with the names at the right ends."""
    steps = max(len(curve.mean) for curve in series)
    drawn = [tag("line", x1=0, x2="100%", y1=height, y2=height, class_="base")]
    drawn += _levels(up, height)
    inside = [band for curve in series for band in _bands(curve, up)] + [line for curve in series for line in _lines(curve, up)]
    box = f"0 0 {max(steps - 1, 1)} 100"
    drawn.append(tag("svg", *inside, width="100%", height=height, viewBox=box, preserveAspectRatio="none"))
    drawn.append(tag("text", "1", x=0, y=height + 15, class_="tick"))
    drawn.append(tag("text", str(steps), x="100%", y=height + 15, text_anchor="end", class_="tick"))
    if named:
        drawn.append(tag("text", "tasks merged", x="50%", y=height + 15, text_anchor="middle", class_="tick"))
        ends = [(curve, last) for curve in series if curve.name and (last := _last(curve)) is not None]
        heights = apart([(1 - up.share(last)) * height for _, last in ends], _LINE)
        for (curve, _), y in zip(ends, heights, strict=True):
            name = shorten(curve.name, 24)
            drawn.append(tag("text", name, x="100%", dx=8, y=f"{y:.1f}", dy=4, class_=f"end {curve.kind}"))
    return tag("div", chart(title, drawn, height + 20), class_="plot named" if named else "plot")


def _runs(curve: Curve) -> Iterator[list[tuple[int, float, float]]]:
    """Step, mean and deviation, without a gap in between."""
    run: list[tuple[int, float, float]] = []
    for i, mean in enumerate(curve.mean):
        if mean is not None:
            run.append((i, mean, (curve.deviation[i] if i < len(curve.deviation) else None) or 0.0))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _bands(curve: Curve, up: Axis) -> Iterator[Html]:
    for run in _runs(curve):
        if any(deviation for _, _, deviation in run):
            edges = [(i, mean + deviation) for i, mean, deviation in run]
            edges += [(i, mean - deviation) for i, mean, deviation in reversed(run)]
            yield tag("polygon", points=_points(edges, up), class_=f"band {curve.kind}")


def _lines(curve: Curve, up: Axis) -> Iterator[Html]:
    for run in _runs(curve):
        yield tag("polyline", points=_points([(i, mean) for i, mean, _ in run], up), class_=f"stroke {curve.kind}")


def _points(pairs: Sequence[tuple[int, float]], up: Axis) -> str:
    return " ".join(f"{i},{100 * (1 - min(max(up.share(value), 0.0), 1.0)):.2f}" for i, value in pairs)


def _last(curve: Curve) -> float | None:
    return next((mean for mean in reversed(curve.mean) if mean is not None), None)


def trial_rows(title: str, rows: Sequence[tuple[str, Sequence[tuple[float, str]], int | None]], across: Axis) -> Html:
    """A row of dots per method: its name, trials as value and text, and the number of the chosen one."""
    drawn, row = [], 34
    for i, (name, trials, chosen) in enumerate(rows):
        y = i * row + 24
        drawn.append(tag("text", shorten(name, 34), x=0, y=i * row + 13))
        drawn.append(tag("line", x1=0, x2="100%", y1=y, y2=y, class_="grid-line"))
        order = sorted(range(len(trials)), key=lambda j: j == chosen)
        for j in order:
            value, told = trials[j]
            kind = "trial chosen" if j == chosen else "trial"
            x = percent(100 * across.share(value))
            drawn.append(tag("circle", tag("title", told), cx=x, cy=y, r=6 if j == chosen else 4.5, class_=kind))
    bottom = len(rows) * row
    for value, text in across.ticks:
        drawn.append(
            tag("text", text, x=percent(100 * across.share(value)), y=bottom + 14, text_anchor="middle", class_="tick")
        )
    return tag("div", chart(title, drawn, bottom + 20), class_="plot even")
