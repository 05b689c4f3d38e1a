"""What a task's calibration images are: how many, and which of them come twice or are among the test images, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mingle_edge.checking.report import ImageFacts
from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.hub import is_hub_reference
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.image_source import CLASS, ImageSource
from mingle_edge.data.labeled_images import read_labeled
from mingle_edge.data.task_file import TaskSource
from mingle_edge.files.plain_file import find_file, refusal

_READ = 1 << 20  # bytes at a time


def image_facts(task: TaskSource, images: ImageSet, labeled: Mapping[str, Sequence[Path] | None]) -> ImageFacts:
    """Return the facts of a task's calibration images.

    Args:
        task: whose images they are.
        images: the calibration images.
        labeled: "test" and "tune" -> the files of these, or None where they are not looked at.

    Raises:
        ImageFolderError, FileError: a file cannot be read.
    """
    digests = [_digest(path) for path in images.paths]
    sizes = {_size(path) for path in images.paths}
    overlap: dict[str, int | None] = {}
    for key, paths in labeled.items():
        # A file of another size has other bytes, so that few of a large set are read.
        others = None if paths is None else {_digest(path) for path in paths if _size(path) in sizes}
        overlap[key] = None if others is None else sum(digest in others for digest in digests)
    per_class = dict.fromkeys(task.classes, task.seeds_per_class) if task.seeds_per_class is not None else {}
    return ImageFacts(len(digests), per_class, len(digests) - len(set(digests)), overlap)


def labeled_files(source: ImageSource, base: Path, classes: Sequence[str]) -> list[Path] | None:
    """Return the files of labeled images; None for those that are no files in class folders yet, but in archives or on the hub.

    Raises:
        ImageFolderError: as `read_labeled`.
    """
    if CLASS in source.files and not is_hub_reference(source.files):
        return list(read_labeled(source, base, classes).paths)
    return None


def _size(path: Path) -> int:
    status = find_file(path)
    return -1 if status is None else status.st_size


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ):
                digest.update(chunk)
    except OSError as error:
        raise ImageFolderError(f"{path} {refusal(error)}") from error
    return digest.digest()
