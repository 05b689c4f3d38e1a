"""Charts of one row per name, with its text above what is drawn: bars, intervals, dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mingle_edge.pages.vega import Spec, color, draw, draw_both, layer, number

_ROW = 40  # pixels
_BELOW = {"yOffset": 8}  # pixels from the middle of a row to what is drawn in it
_TICK = {"type": "tick", "thickness": 2, "size": 14}

Bar = tuple[str, str, Sequence[tuple[str, float]]]
"""A row of bars: label, value as text, and the parts, each a color and a length."""


def bars(title: str, rows: Sequence[Bar], apart: bool = False, reaches: Sequence[float] = ()) -> Markup:
    """Return horizontal bars on one scale.

    The parts of a row follow one another, or lie `apart`, to be compared. `reaches` are where thin lines from the ends of the
    bars go.
    """
    parts_of_rows = [
        {"row": i, "part": j, "length": length, "color": name, "told": f"{label}: {shown}"}
        for i, (label, shown, parts) in enumerate(rows)
        for j, (name, length) in enumerate(parts)
    ]
    lines = [{"row": i, "length": sum(length for _, length in rows[i][2]), "to": reach} for i, reach in enumerate(reaches)]
    x = number("length", {"nice": False})
    lane = {"yOffset": {"field": "part", "type": "ordinal", "scale": {"range": [22, 37]}, "axis": None}} if apart else {}
    layers = [
        layer(lines, {"type": "rule", "stroke": color("soft")} | _BELOW, x=x, x2={"field": "to"}),
        layer(
            parts_of_rows,
            {"type": "bar", "height": 7 if apart else 12} | ({} if apart else _BELOW),
            x=x,
            order={"field": "part"},
            **lane,
        ),
    ]
    return _rows(title, [(label, shown) for label, shown, _ in rows], layers)


def spans(title: str, rows: Sequence[tuple[str, str, str, tuple[float, float, float]]]) -> Markup:
    """Return intervals on one scale from zero, with a line at 1; a row: label, value as text, color, and low, middle, high."""
    intervals = [
        {"row": i, "low": low, "middle": middle, "high": high, "color": name, "told": f"{label}: {shown}"}
        for i, (label, shown, name, (low, middle, high)) in enumerate(rows)
    ]
    scale = {"zero": True, "nice": False, "padding": 6}
    line = {"type": "rule", "strokeWidth": 4, "opacity": 0.5, "strokeCap": "round"}
    one = {"type": "rule", "strokeDash": [3, 3], "stroke": color("soft")}
    layers = [
        layer([{"at": 1}], one, x=number("at", scale), y={"value": 0}, y2={"value": "height"}),
        layer(intervals, line | _BELOW, x=number("low", scale), x2={"field": "high"}),
        layer(intervals, {"type": "point", "size": 80} | _BELOW, x=number("middle", scale)),
    ]
    return _rows(title, [(label, shown) for label, shown, *_ in rows], layers)


def trials(title: str, rows: Mapping[str, Sequence[tuple[float, str, bool]]], name: str) -> Markup:
    """Return a row of dots per label, each a value, a text for the pointer, and whether it was chosen, which fills it."""
    dots = [
        {"row": i, "at": value, "color": name if chosen else "card", "told": told}
        for i, trials_of in enumerate(rows.values())
        for value, told, chosen in sorted(trials_of, key=lambda trial: trial[2])
    ]
    mark = {"type": "point", "size": 70, "strokeWidth": 1.5, "stroke": color(name)}
    x = number("at", {"zero": False, "padding": 8}, {"title": None, "tickCount": 5})
    return _rows(title, [(label, "") for label in rows], [layer(dots, mark | _BELOW, x=x)])


def between(title: str, places: Mapping[str, tuple[float, str]], best: str, name: str) -> Markup:
    """Return a line from the lowest to the highest place, value and text, with a stop at each and in color up to the best."""
    low, high = min(places.values())[0], max(places.values())[0]
    reached, told = places[best]
    x = number("at", {"domain": [low, high], "padding": 8})
    stops = [{"at": value, "color": "soft", "told": told} for label, (value, told) in places.items() if label != best]
    line = {"at": low, "to": reached, "color": name}
    layers = [
        layer([{"at": low, "to": high, "color": "rule"}], {"type": "rule"}, x=x, x2={"field": "to"}),
        layer(stops, _TICK, x=x),
        layer([line], {"type": "rule", "strokeWidth": 4}, x=x, x2={"field": "to"}),
        layer([{"at": reached, "color": name, "told": told}], {"type": "point", "size": 130}, x=x),
    ]
    return draw(title, {"height": 18, "layer": [part for part in layers if part["data"]["values"]]}, 260)


def _rows(title: str, texts: Sequence[tuple[str, str]], layers: Sequence[Spec]) -> Markup:
    """The layers under the label and the value of each row."""
    if not texts:
        return Markup()
    data = [{"row": i, "label": label, "shown": shown} for i, (label, shown) in enumerate(texts)]
    y = {"field": "row", "type": "ordinal", "axis": None, "scale": {"type": "band"}}
    text: dict[str, Any] = {"type": "text", "yOffset": -10, "aria": False}
    right = text | {"align": "right", "fontWeight": 600}

    def spec(width: int) -> Spec:
        left = text | {"align": "left", "limit": width - 60}  # pixels, the rest is the value's
        above = [
            layer(data, left, x={"value": 0}, text={"field": "label"}),
            layer(data, right, x={"value": "width"}, text={"field": "shown"}),
        ]
        drawn = [part for part in layers if part["data"]["values"]]
        return {"height": {"step": _ROW, "for": "position"}, "encoding": {"y": y}, "layer": [*above, *drawn]}

    return draw_both(title, spec)
