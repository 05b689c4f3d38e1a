"""Images with classes, numbered: what every form of them has in common, and that of class folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.image_folder import labeled_images


class LabeledSource(Protocol):
    """Images by number, with their classes; those that are not asked for need not exist as files."""

    labels: list[int]  # class numbers
    taken: str  # what they were read from, beside the name of the source, in words
    skipped: dict[str, int]  # why something was left out -> how often

    def paths(self, numbers: Sequence[int], progress: Progress = silent) -> list[Path]:
        """Return files of the images with these numbers."""


class FolderImages:
    """The images of a folder for each class."""

    def __init__(self, pattern: str, base: Path, classes: Sequence[str]) -> None:
        """List them. Raises `ImageFolderError` as `labeled_images`."""
        self.taken = ""
        skipped: Counter[str] = Counter()
        pairs = labeled_images(pattern, base, classes, skipped)
        self.skipped = dict(skipped)
        self.labels = [label for _, label in pairs]
        self._paths = [path for path, _ in pairs]

    def paths(self, numbers: Sequence[int], progress: Progress = silent) -> list[Path]:
        """Return files of the images with these numbers."""
        return [self._paths[number] for number in numbers]
