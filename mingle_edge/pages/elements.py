"""HTML and SVG elements whose text and attributes are always escaped."""

from __future__ import annotations

from html import escape

_VOID = {"meta"}


class Html(str):
    """Text that is markup already; every other string is escaped where it becomes part of an element."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: object) -> Html:
    """One element. A trailing "_" of an attribute's name is dropped, any other one becomes "-"; None leaves it out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: str) -> Html:
    """Elements and escaped text, one after another."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))
