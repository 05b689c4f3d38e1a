"""What was found where a task file names images: a record to be shown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FoundImages:
    """What was read, and what was left out.

    Attributes:
        taken: what was read, in words: the files, and of a data set its split and configuration.
        images: how many were found, in the source's share where it has one.
        per_class: how many of every class, in the order of `classes`; empty where images have no labels.
        skipped: why files or images were left out -> how many.
    """

    taken: str
    images: int
    per_class: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
