"""Draw Vega-Lite specifications as inline SVG in the colors of the page.

A color is the name of a variable of the style sheet (`blue` is `var(--blue)`), so one drawing serves light and dark. What
fills a card is drawn for a phone and for a desk, and the style sheet shows one of the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

import vl_convert
from markupsafe import Markup

Spec = dict[str, Any]
NARROW, WIDE = 310, 560  # pixels
_QUIET = {"aria": False, "domain": False, "ticks": False, "titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 11}
_CONFIG = {
    "font": "system-ui, sans-serif",
    "axis": _QUIET
    | {"gridColor": "var(--rule)", "labelColor": "var(--soft)", "titleColor": "var(--soft)", "labelOverlap": True},
    "axisX": {"titleAlign": "right", "titleAnchor": "end"},
    "axisY": {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": -28, "titleY": -12},
    "view": {"stroke": None},
    "text": {"fontSize": 12, "fill": "var(--text)"},
    "point": {"opacity": 1, "strokeWidth": 0},
}


def draw(title: str, spec: Spec, width: int) -> Markup:
    """Return the drawing, `width` pixels wide where the page has room; what is in the channel `description` becomes a tooltip.

    Raises `OverflowError` where a number is too large to be drawn.
    """
    fit = {"type": "fit-x", "contains": "padding"}
    try:
        text = json.dumps(
            {"width": width, "background": None, "padding": 3, "autosize": fit, "config": _CONFIG} | spec, allow_nan=False
        )
    except ValueError as error:
        raise OverflowError(f"the chart {title!r} has numbers that are too large to be drawn") from error
    svg = ElementTree.fromstring(vl_convert.vegalite_to_svg(text, allowed_base_urls=[]))
    for element in svg.iter():
        element.tag = element.tag.rpartition("}")[2]
        told = element.attrib.get("aria-label")
        element.attrib = {name: value for name, value in element.attrib.items() if not name.startswith(("aria-", "role"))}
        if told:
            ElementTree.SubElement(element, "title").text = told
    svg.attrib = {"viewBox": svg.attrib["viewBox"], "role": "img", "class": "chart", "aria-label": _printable(title)}
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def draw_both(title: str, spec: Callable[[int], Spec], wide: int = WIDE) -> Markup:
    """Return the drawings for a phone and for a desk, made by `spec` from their width."""
    both = (draw(title, spec(width), width) for width in (NARROW, wide))
    return Markup('<div class="narrow">{}</div><div class="wide">{}</div>').format(*both)


def layer(rows: Iterable[Mapping[str, Any]], mark: Spec, **encoding: Spec) -> Spec:
    """Return a layer with a mark for each row, in the color that the row names in `color`, and with `told` as its tooltip."""
    data = [{key: _drawn(key, value) for key, value in row.items()} for row in rows]
    fields = data[0].keys() if data else ()
    told = {"description": {"field": "told", "type": "nominal"}} if "told" in fields else {}
    channel = "fill" if mark["type"] in ("point", "area") else "color"
    colored = {channel: {"field": "color", "type": "nominal", "scale": None}} if "color" in fields else {}
    return {"data": {"values": data}, "mark": {"aria": bool(told)} | mark, "encoding": {**colored, **told, **encoding}}


def number(field: str, scale: Spec | None = None, axis: Spec | None = None) -> Spec:
    """Return the encoding of a number on a scale, without an axis unless one is described."""
    return {"field": field, "type": "quantitative", "scale": scale or {}, "axis": axis}


def color(name: str) -> str:
    """Return the color of that name in the style sheet."""
    return f"var(--{name})"


def _drawn(key: str, value: Any) -> Any:
    """A value of a row as it is drawn."""
    return color(value) if key == "color" else _printable(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    """The text with what has no glyph replaced: controls, halves of surrogate pairs."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
