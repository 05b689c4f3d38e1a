"""Charts of one row per name, with its text above what is drawn: bars, intervals, dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mingle_edge.pages.axes import ratios
from mingle_edge.pages.vega import Spec, color, draw, draw_both, layer, number

_ROW = 40  # pixels
_LINE = 16  # pixels, of a second line of text
_LETTER = 7  # pixels, about
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
    """Return intervals of ratios on one logarithmic scale, with a mark at 1 in each row.

    A row is a label, the value as text, a color, and low, middle and high; one that is not positive is not drawn.
    """
    intervals = [
        {"row": i, "low": low, "middle": middle, "high": high, "color": name, "told": f"{label}: {shown}"}
        for i, (label, shown, name, (low, middle, high)) in enumerate(rows)
        if min(low, middle, high) > 0
    ]
    scale, ticks = ratios([end for _, _, _, ends in rows for end in ends if min(ends) > 0])
    line = {"type": "rule", "strokeWidth": 4, "opacity": 0.5, "strokeCap": "round"}
    x = number("low", scale, {"title": None} | ticks)
    layers = [
        layer([{"row": i, "at": 1, "color": "soft"} for i in range(len(rows))], _TICK | _BELOW, x=x | {"field": "at"}),
        layer(intervals, line | _BELOW, x=x, x2={"field": "high"}),
        layer(intervals, {"type": "point", "size": 80} | _BELOW, x=x | {"field": "middle"}),
    ]
    return _rows(title, [(label, shown) for label, shown, *_ in rows], layers)


def trials(title: str, rows: Mapping[str, Sequence[tuple[float, str, bool]]], name: str, axis: str) -> Markup:
    """Return a row of dots per label, each a value, a text for the pointer, and whether it was chosen, which fills it."""
    dots = [
        {"row": i, "at": value, "color": name if chosen else "card", "told": told}
        for i, trials_of in enumerate(rows.values())
        for value, told, chosen in sorted(trials_of, key=lambda trial: trial[2])
    ]
    mark = {"type": "point", "size": 70, "strokeWidth": 1.5, "stroke": color(name)}
    x = number("at", {"zero": False, "padding": 8}, {"title": axis, "tickCount": 5})
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
    """The layers under the label and the value of each row, on lines of their own where one is too short for both."""
    if not texts:
        return Markup()
    data = [{"row": i, "label": label, "shown": shown} for i, (label, shown) in enumerate(texts)]
    y = {"field": "row", "type": "ordinal", "axis": None, "scale": {"type": "band"}}
    longest = _LETTER * max(len(label) + len(shown) for label, shown in texts)

    def spec(width: int) -> Spec:
        more = _LINE if longest > width else 0
        text: dict[str, Any] = {"type": "text", "yOffset": -10 - more / 2, "aria": False}
        room = width if more else width - _LETTER * max(len(shown) for _, shown in texts)
        above = [
            layer(data, text | {"align": "left", "limit": room}, x={"value": 0}, text={"field": "label"}),
            layer(
                data,
                text | {"align": "left" if more else "right", "fontWeight": 600, "yOffset": -10 + more / 2},
                x={"value": 0 if more else "width"},
                text={"field": "shown"},
            ),
        ]
        drawn = [_lower(part, more) for part in layers if part["data"]["values"]]
        return {"height": {"step": _ROW + more, "for": "position"}, "encoding": {"y": y}, "layer": [*above, *drawn]}

    return draw_both(title, spec)


def _lower(part: Spec, more: float) -> Spec:
    """The layer in rows that are so many pixels higher."""
    mark, encoding = part["mark"], part["encoding"]
    if "yOffset" in mark:
        mark = mark | {"yOffset": mark["yOffset"] + more / 2}
    if lane := encoding.get("yOffset"):
        encoding = encoding | {"yOffset": lane | {"scale": {"range": [edge + more for edge in lane["scale"]["range"]]}}}
    return part | {"mark": mark, "encoding": encoding}
