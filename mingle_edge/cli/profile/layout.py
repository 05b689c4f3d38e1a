"""What every section of the page is made of."""

from __future__ import annotations

from collections.abc import Sequence

from mingle_edge.cli.profile.markup import Html, tag
from mingle_edge.cli.profile.table import milliseconds


def section(title: str, about: str, *parts: Html) -> Html:
    """A card with a title and a sentence about it."""
    return tag("section", tag("h2", title), *([tag("p", about, class_="about")] if about else []), *parts)


def details(title: str, *parts: Html) -> Html:
    """What is shown when one asks for it."""
    return tag("details", tag("summary", title), *parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Html:
    """A table that scrolls by itself where the screen is too narrow for it."""
    first = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    described = [tag("caption", caption)] if caption else []
    return tag("div", tag("table", *described, tag("thead", first), tag("tbody", *body)), class_="scroll")


def kind_class(kind: str) -> str:
    """The class, and so the colour, of what was timed."""
    known = ("named", "routed", "dense", "all-experts", "separate-models", "reload")
    return kind if kind in known else "dense"


def ms(seconds: float) -> str:
    """Milliseconds with their unit."""
    return f"{milliseconds(seconds)} ms"
