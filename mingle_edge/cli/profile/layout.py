"""How kinds and times look in every section of the page."""

from __future__ import annotations

from mingle_edge.cli.profile.table import milliseconds


def kind_class(kind: str) -> str:
    """The class, and so the colour, of what was timed."""
    known = ("named", "routed", "dense", "all-experts", "separate-models", "reload")
    return kind if kind in known else "dense"


def ms(seconds: float) -> str:
    """Milliseconds with their unit."""
    return f"{milliseconds(seconds)} ms"
