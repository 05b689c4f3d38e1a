"""What a task's calibration images are: how many, and which of them come twice or are among the test images, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mingle_edge.checking.report import ImageFacts
from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.hub import is_hub_reference, local_path
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import read_labeled
from mingle_edge.data.task_file import TaskSource
from mingle_edge.files.plain_file import find_file, refusal

_READ = 1 << 20  # bytes at a time


def image_facts(task: TaskSource, images: ImageSet, labeled: Mapping[str, ImageSet | None]) -> ImageFacts:
    """Return the facts of a task's calibration images.

    Args:
        task: whose images they are.
        images: the calibration images.
        labeled: "test" and "tune" -> these, or None where they are not looked at.

    Raises:
        ImageFolderError, FileError: a file cannot be read.
    """
    digests = [_digest(path) for path in images.paths]
    sizes = {_size(path) for path in images.paths}
    overlap: dict[str, int | None] = {}
    for key, others_of in labeled.items():
        # A file of another size has other bytes, so that few of a large set are read.
        others = None if others_of is None else {_digest(path) for path in others_of.paths if _size(path) in sizes}
        overlap[key] = None if others is None else sum(digest in others for digest in digests)
    per_class = dict.fromkeys(task.classes, task.seeds_per_class) if task.seeds_per_class is not None else {}
    found = {"seeds": images.found} | {
        key: None if others_of is None else others_of.found for key, others_of in labeled.items()
    }
    return ImageFacts(len(digests), per_class, found, len(digests) - len(set(digests)), overlap)


def labeled_images(source: ImageSource, base: Path, classes: Sequence[str]) -> ImageSet | None:
    """Return labeled images; None for those that only a download or a copy out of an archive makes files.

    Raises:
        ImageFolderError: as `read_labeled`.
    """
    if source.kind not in ("class folders", "list", "folder") or is_hub_reference(source.files):
        return None
    if source.kind == "folder" and _holds_archives(local_path(source.files, base)):
        return None
    return read_labeled(source, base, classes)


def _holds_archives(folder: Path) -> bool:
    return any(path.suffix in (".tar", ".parquet") for path in folder.rglob("*"))


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
