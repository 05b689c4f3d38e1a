"""How this project's docstrings read on a page.

A docstring names parameters and attributes in paragraphs of their own, `name: what it is`, which Griffe takes for prose.
Here they become the sections that it knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import griffe

ITEM = re.compile(r"((?:\w+, )*\w+): (.+)")

ATTRIBUTES = re.compile(r"\nAttributes:\n(?:[ \t]+.*(?:\n|$)|\n)+")


class NamedItems(griffe.Extension):
    """Turns paragraphs of `name: what it is` into sections."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Give a function's parameters a section."""
        if func.docstring:
            func.docstring.value = sectioned(func.docstring.value, "Args", [parameter.name for parameter in func.parameters])

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Give each attribute what its class says of it, so that it is described in one place."""
        if not cls.docstring:
            return
        for name, said in named_items(cls.docstring.value, cls.members).items():
            if not cls.members[name].has_docstring:
                cls.members[name].docstring = griffe.Docstring(said, parent=cls)
        rest, _items = _split(ATTRIBUTES.sub("\n", cls.docstring.value), cls.members)
        cls.docstring.value = "\n".join(rest)


def sectioned(text: str, title: str, names: Iterable[str]) -> str:
    """Return a docstring in which items of these names stand in a section behind everything else."""
    rest, items = _split(text, names)
    return "\n".join([*rest, "", f"{title}:", *(f"    {item}" for item in items)]) if items else text


def named_items(text: str, names: Iterable[str]) -> dict[str, str]:
    """Return what a docstring says of each of these names; in a section with a title or not."""
    _, items = _split("\n".join(line.strip() for line in text.split("\n")), names)
    return dict(item.split(": ", 1) for item in items)


def _split(text: str, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the lines of a docstring outside the items of these names, and each item on one line, one for each name."""
    known, rest, found = set(names), list[str](), list[tuple[list[str], str]]()
    open_item = False
    for line in text.split("\n"):
        match = ITEM.fullmatch(line)
        if match and known.issuperset(match[1].split(", ")):
            found.append((match[1].split(", "), match[2]))
            open_item = True
        elif open_item and line.strip() and not (match and ", " in match[1]):
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        else:
            open_item = False
            rest.append(line)
    return rest, [f"{name}: {said}" for together, said in found for name in together]
