"""An HTML page taken apart with the standard library's parsers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

VOID = {"meta"}


class Page(HTMLParser):
    """The elements, their attributes and text, with every element closed in the order it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += f"{data}\n"


def check_alone(text: str) -> Page:
    """Assert that the page runs no script and loads nothing, and that its tables scroll by themselves, and return it."""
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not {title for title, _ in page.elements} & {"script", "link", "img", "iframe", "object", "base", "form"}
    attributes = {name for _, given in page.elements for name in given}
    assert not attributes & {"src", "href", "srcset", "action", "style", "data", "background"}
    assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|//", page.style)
    assert "http" not in text
    metas = [given for title, given in page.elements if title == "meta"]
    assert {"charset": "utf-8"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert "prefers-color-scheme: dark" in page.style
    outside = [before for before, (title, _) in pairwise(page.elements) if title == "table"]
    assert [given.get("class") for _, given in outside] == ["scroll"] * len(outside) != []
    return page


def body(text: str) -> ElementTree.Element:
    """The body as XML, which it and so every drawing in it is."""
    return ElementTree.fromstring(text[text.index("<body>") : text.index("</body>") + 7])


def words(element: ElementTree.Element) -> str:
    """All text inside, without what is only shown by the pointer."""
    parts = [element.text or ""]
    for child in element:
        parts += ["" if child.tag == "title" else words(child), child.tail or ""]
    return "".join(parts)


def rows(table: ElementTree.Element) -> dict[str, list[str]]:
    """Cells of the body of a table by the name of the row."""
    texts = [[words(cell).strip() for cell in row] for row in table.iterfind("tbody/tr")]
    return {name: cells for name, *cells in texts}


def card(page: ElementTree.Element, title: str) -> ElementTree.Element | None:
    """The section of that title, or None."""
    return next((part for part in page.iter("section") if words(part[0]) == title), None)


def check_phone(page: ElementTree.Element) -> None:
    """Assert that texts of the drawings for a phone lie inside them, and that the keyboard scrolls tables of many columns."""
    for box in page.iterfind(".//div[@class='scroll']"):
        table = box.find("table")
        columns = max(len(row) for row in table.iter("tr"))
        if columns > 4 and "heat" not in table.get("class", ""):
            assert box.get("tabindex") == "0"
            assert box.get("aria-label")
    for drawing in page.iterfind(".//div[@class='narrow']/svg"):
        width = float(drawing.get("viewBox").split()[2])
        for left, right, text in _texts(drawing, 0.0):
            assert left >= -8, text
            assert right <= width + 8, text


def _texts(element: ElementTree.Element, x: float) -> Iterator[tuple[float, float, str]]:
    """Where every text begins and ends, its letters at least half as wide as high."""
    moved = re.match(r"translate\(([^,]*),", element.get("transform", ""))
    x += float(moved.group(1)) if moved else 0.0
    if element.tag == "text" and element.text:
        length = len(element.text) * float(element.get("font-size").removesuffix("px")) / 2
        start = x - length * {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")]
        yield start, start + length, element.text
    for child in element:
        yield from _texts(child, x)
