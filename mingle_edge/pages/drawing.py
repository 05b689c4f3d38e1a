"""The frame of a chart as inline SVG: widths in percent and text in pixels, so that one chart fits a phone and a desk."""

from __future__ import annotations

from collections.abc import Sequence

from mingle_edge.pages.elements import Html, join, tag


def chart(title: str, drawn: Sequence[Html], height: float) -> Html:
    """A drawing as wide as its card and `height` pixels high."""
    return tag("svg", tag("title", title), join(*drawn), width="100%", height=height, role="img", class_="chart")


def legend(names: Sequence[tuple[str, str]]) -> Html:
    """What the colours mean: class and text."""
    entries = [tag("span", tag("i", class_=f"swatch {kind}"), text, class_="entry") for kind, text in names]
    return tag("p", *entries, class_="legend")


def percent(value: float) -> str:
    """A length in percent of the width."""
    return f"{value:.2f}%"
