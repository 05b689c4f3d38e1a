"""Charts of numbers over numbers: points with their names, curves over steps, values over runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from markupsafe import Markup

from mingle_edge.pages.axes import Axis, sizes
from mingle_edge.pages.labels import shorten, spread
from mingle_edge.pages.vega import NARROW, Spec, color, draw, draw_both, layer, number

_LINE = 16  # pixels between names at the right
_FEW_STEPS = 6  # up to as many, each has a tick
_END = {"value": "width"}
_NAME = {"type": "text", "align": "left", "dx": 5, "aria": False}


@dataclass(frozen=True)
class Curve:
    """Values over steps, None where there is none."""

    name: str
    color: str
    mean: Sequence[float | None]
    deviation: Sequence[float | None] = ()
    """of as many steps as there are; half the width of the band around the curve"""
    dashed: bool = False
    width: float = 1.5
    """pixels"""
    opacity: float = 1.0
    named: bool = False
    """at its right end"""


def scatter(
    title: str,
    points: Sequence[Mapping[str, Any]],
    across: str,
    up: str,
    axis: Callable[[Sequence[float]], Axis] = sizes,
) -> Markup:
    """Return points with their names to the right, joined by lines; `axis` makes that of x from where the points lie.

    A point has `name`, `color`, `shape` as Vega-Lite names it, `x`, `y`, and `told`, shown while the pointer rests on it.
    """
    ys, xs = [point["y"] for point in points], [point["x"] for point in points]
    low, high = extent(ys)
    height = max(340, _LINE * len(points))
    scale, ticks = axis(xs)
    x = number("x", scale, {"title": across} | ticks)
    y = number("y", {"domain": [low, high], "nice": False}, {"title": up, "tickCount": 7})
    heights = spread(ys, _LINE * (high - low) / height)
    leads = [{"x": x, "y": y, "to": to} for x, y, to in zip(xs, ys, heights, strict=True)]
    leader = {"type": "rule", "stroke": color("soft"), "opacity": 0.4, "strokeWidth": 0.7}
    size = {"condition": {"test": "datum.shape == 'diamond'", "value": 160}, "value": 80}
    shape = {"field": "shape", "type": "nominal", "scale": None}

    def spec(width: int) -> Spec:
        letters = 19 if width == NARROW else 30
        short = [shorten(point["name"], letters) for point in points]
        faint = ["soft" if point["color"] == "grey" else "text" for point in points]
        names = [{"to": to, "short": name, "color": color} for to, name, color in zip(heights, short, faint, strict=True)]
        layers = [
            layer(leads, leader, x=x, y=y, x2=_END, y2={"field": "to"}),
            layer(points, {"type": "point", "stroke": color("card"), "strokeWidth": 1}, x=x, y=y, shape=shape, size=size),
            layer(names, _NAME, x=_END, y=y | {"field": "to"}, text={"field": "short"}),
        ]
        return {"height": height, "padding": _room(short), "layer": layers}

    return draw_both(title, spec)


def steps(title: str, curves: Sequence[Curve], ends: tuple[float, float]) -> Markup:
    """Return curves over steps from 1, with their bands, and on a desk with the names of those that are named at their ends."""
    named = [(curve, known[-1]) for curve in curves if curve.named and (known := [v for v in curve.mean if v is not None])]
    heights = spread([last for _, last in named], _LINE * (ends[1] - ends[0]) / 300)
    names: list[Spec] = [
        {"mean": y, "short": shorten(curve.name, 30), "color": curve.color}
        for (curve, _), y in zip(named, heights, strict=True)
    ]

    def spec(width: int) -> Spec:
        layers, shown = _curves(curves, ends, "tasks merged", "ACC so far, %"), names if width > NARROW else []
        if shown:
            y = layers[-1]["encoding"]["y"]
            layers.append(layer(shown, _NAME | {"fontWeight": 600}, x=_END, y=y, text={"field": "short"}))
        return {"height": 300, "layer": layers, "padding": _room([name["short"] for name in shown])}

    return draw_both(title, spec, wide=760)


def small_steps(title: str, curves: Sequence[Curve], ends: tuple[float, float]) -> Markup:
    """Return the same as `steps` without names, as one of many small drawings."""
    return draw(title, {"height": 90, "layer": _curves(curves, ends, None)}, 150)


def runs(title: str, curves: Sequence[Curve], unit: str) -> Markup:
    """Return values over runs from 1, on a scale from zero."""
    highest = max((value for curve in curves for value in curve.mean if value is not None), default=0.0) or 1.0
    layers = _curves(curves, (0.0, highest), "run", unit)
    return draw_both(title, lambda _: {"height": 120, "layer": layers})


def extent(values: Sequence[float], most: float = 100.0) -> tuple[float, float]:
    """Return the ends of an axis of percentages with a little room on both sides, but none above `most`."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.06 or 1.0
    return low - room, max(min(high + room, most), high)


def curves_extent(curves: Iterable[Curve]) -> tuple[float, float]:
    """Return the ends of an axis of percentages for curves with their bands."""
    pairs = [pair for curve in curves for pair in zip_longest(curve.mean, curve.deviation)]
    edges = [mean + sign * (band or 0.0) for mean, band in pairs if mean is not None for sign in (-1, 1)]
    return extent([min(max(edge, 0.0), 100.0) for edge in edges])


def _curves(curves: Sequence[Curve], ends: tuple[float, float], across: str | None, up: str | None = None) -> list[Spec]:
    low, high = ends
    rows: list[Spec] = []
    for i, curve in enumerate(curves):
        look = {"curve": i, "color": curve.color, "dashed": curve.dashed, "width": curve.width, "opacity": curve.opacity}
        for step, (mean, band) in enumerate(zip_longest(curve.mean, curve.deviation), 1):
            edges = {"from": max(mean - band, low), "to": min(mean + band, high)} if band and mean is not None else {}
            rows.append(look | {"step": step, "mean": mean, "from": mean, "to": mean} | edges)
    last = max((row["step"] for row in rows), default=2)
    ticks: Spec = {"format": "d", "tickCount": 5}
    if across is None or last <= _FEW_STEPS:
        ticks |= {"values": [1, last] if across is None else list(range(1, last + 1))}
    x = number("step", {"domain": [1, max(last, 2)], "nice": False}, {"title": across, "grid": False} | ticks)
    y = number("mean", {"domain": [low, high], "nice": False}, {"title": up, "tickCount": 4 if across is None else 6})
    each = {"x": x, "detail": {"field": "curve"}}
    dash = {"condition": {"test": "datum.dashed", "value": [5, 4]}, "value": [1, 0]}
    thick, pale = ({"field": field, "type": "quantitative", "scale": None} for field in ("width", "opacity"))
    banded = {row["curve"] for row in rows if row["from"] != row["to"]}
    bands = [row for row in rows if row["curve"] in banded]
    return [
        layer(bands, {"type": "area", "opacity": 0.14}, y=y | {"field": "from"}, y2={"field": "to"}, **each),
        layer(rows, {"type": "line"}, y=y, strokeDash=dash, strokeWidth=thick, opacity=pale, **each),
    ]


def _room(names: Sequence[str]) -> Spec:
    """The padding of a drawing with names at its right, which may be wider in a reader's font than in the one measured here."""
    return {"left": 3, "top": 3, "bottom": 3, "right": 3 + 1.2 * max(map(len, names), default=0)}
