"""docs/checkpoints.md: the cells of the matrix as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import containers
from model_families import FAMILIES
from refused import Refused

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
CONTAINERS = {"open_clip": containers.OPEN_CLIP, "transformers": containers.HUGGING_FACE}
EVERY = ("CLIP, QuickGELU", "CLIPModel")
"""The families whose models are written in every container; of the others one is enough."""
CELLS = [
    (family.name, container.name, container.library)
    for family in FAMILIES.values()
    for container in CONTAINERS[family.library][: None if family.name in EVERY else 1]
]
_TOP = """# Checkpoints

What is read, and what is refused with which message. `tests/matrix` writes this page and proves each row: tiny models of random
values are written by the library in the third column, with noise on every parameter, so that no tensor can be missed unseen.
*Exact*: what the runtime computes from the exported bundle of the merged model (full rank, fp32) differs from the embedding of
the library's own preprocessing and forward pass by at most 1e-5, of unit length, or relative to the longest where embeddings
are not scaled. `make test` runs it; `python tests/matrix/write_page.py` writes the page anew.

| model | stored as | written by | result |
| --- | --- | --- | --- |
"""
_REFUSED = """
## What is refused

Given as a task of a CLIPModel, or as the backbone.

| what | written by | message |
| --- | --- | --- |
"""


def exact_row(family: str, container: str, library: str) -> str:
    """Return the row of a cell that is read."""
    (stored,) = (c for c in CONTAINERS[FAMILIES[family].library] if (c.name, c.library) == (container, library))
    halves = {containers.HALF: "exact, but for weights of 11 bits", containers.BFLOAT: "exact, but for weights of 8 bits"}
    return f"| {family} | {container} | {library} | {halves.get(stored.tolerance, 'exact')} |"


def refused_row(case: Refused, message: str, folder: Path) -> str:
    """Return the row of a cell that is refused; paths in the message are relative to `folder`, where it was written."""
    text = (
        " ".join(message.replace(f"{folder}/", "").replace(str(folder), "FOLDER").split())
        .replace("|", "\\|")
        .replace("<", "&lt;")
    )
    return f"| {case.name}{' (backbone)' if case.as_backbone else ''} | {case.library} | {text} |"


def page(refused: Sequence[str]) -> str:
    """Return the page. refused: the rows of what is refused."""
    exact = [exact_row(*cell) for cell in CELLS]
    return _TOP + "\n".join(exact) + "\n" + _REFUSED + "\n".join(refused) + "\n"
