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

Which checkpoints are read, and which are refused with which message. `tests/matrix` writes this page and proves each row. Very
small models with random values are written by the library in the third column. Every parameter has noise on it, so that a
tensor that is not read would be noticed. *Exact* means: the model is merged (full rank), exported (fp32) and run, and its
embedding is compared with that of the library's own preprocessing and forward pass. They differ by at most 1e-5, for embeddings
of unit length; where embeddings are not scaled, relative to the longest. `make test` checks all rows;
`python tests/matrix/write_page.py` writes the page again.

| model | stored as | written by | result |
| --- | --- | --- | --- |
"""
_REFUSED = """
## What is refused

Each was given as a task of a CLIPModel, or as the backbone. The message is the whole error.

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
