"""Text from elsewhere in Markdown: a name is shown as it is, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

_MARKUP = re.compile(r"([\\`*_{}\[\]#|~!$])")


def plain(text: object) -> str:
    """Return Markdown that shows a text on one line and without its markup."""
    return _MARKUP.sub(r"\\\1", escape(" ".join(str(text).split()), quote=False))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], alignment: str = "---:") -> str:
    """Return a table whose cells are Markdown.

    alignment: of the columns after the first, numbers unless `---` is given.
    """
    rule = ["---", *[alignment] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
