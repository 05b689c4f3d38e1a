"""What a page is made of: the document, cards, tables, and what unfolds."""

from __future__ import annotations

from collections.abc import Sequence

from mingle_edge.pages.elements import Html, tag


def document(title: str, style: str, *parts: Html) -> str:
    """A whole page that needs nothing else: no script, nothing loaded."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *parts)), lang='en')}\n"


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
