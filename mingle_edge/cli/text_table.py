"""Tables of plain text, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mingle_edge.pages.labels import shorten

_NAME = 31  # characters of the first cell of a row


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, with columns as wide as their widest cell; the first cell of a row is its name."""
    shown = [[shorten(name, _NAME), *cells] for name, *cells in (head, *rows)]
    first, *others = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for name, *cells in shown:
        line = "  ".join([f"  {name:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))])
        yield line.rstrip()
