"""What a path on the command line is, so that swapped arguments are told from missing files."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from enum import Enum
from itertools import islice
from pathlib import Path

from mingle_edge.core.errors import MingleError


class PathKind(Enum):
    """What a command takes, as a message calls it."""

    TASK_FILE = "a task file"
    MERGED_MODEL = "a merged model"
    BUNDLE = "a bundle"
    PROFILE = "a report of profile --json"
    IMAGE = "an image"
    IMAGE_FOLDER = "a folder of images"


class PathKindError(MingleError):
    """An argument is something else than what its place on the command line asks for."""


_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_LOOKED_AT = 50  # names in a folder that may hold images
_HEAD = 200  # bytes of a report before its format is named

_WAYS = {
    (PathKind.BUNDLE, PathKind.MERGED_MODEL): "name the merged model that it was exported from",
    (PathKind.MERGED_MODEL, PathKind.BUNDLE): "export it first: mingle-edge export {path} -o BUNDLE",
    (PathKind.MERGED_MODEL, PathKind.TASK_FILE): "name the task file that it was merged from",
    (PathKind.TASK_FILE, PathKind.MERGED_MODEL): "merge it first: mingle-edge merge {path} -o MERGED",
    (PathKind.TASK_FILE, PathKind.BUNDLE): "merge and export it first: mingle-edge merge {path} -o MERGED",
}
"""What a path is and what is needed -> the next step."""


def kind_of(path: Path) -> PathKind | None:
    """Tell what a path is by names and a few bytes; None where it is nothing of this, or not there."""
    if path.is_dir():
        if os.path.lexists(path / "bundle.json"):
            return PathKind.BUNDLE
        if os.path.lexists(path / "mingle.json"):
            return PathKind.MERGED_MODEL
        return PathKind.IMAGE_FOLDER if _holds_images(path) else None
    if not path.is_file():
        return None
    suffix = path.suffix.lower()
    if suffix == ".toml":
        return PathKind.TASK_FILE
    if suffix == ".json":
        return PathKind.PROFILE if _is_profile(path) else None
    return PathKind.IMAGE if suffix in _SUFFIXES else None


def check_kinds(command: str, arguments: Sequence[tuple[Path, PathKind]]) -> None:
    """Check that each argument of a command can be what is needed in its place; a path of no known kind passes.

    arguments: in the order of the command line. Raises `PathKindError` with the command as it was probably meant where the
    arguments are swapped, else with the first argument that is something else, and the next step.
    """
    found = [(path, kind_of(path) or wanted, wanted) for path, wanted in arguments]
    wrong = [(path, kind, wanted) for path, kind, wanted in found if kind is not wanted]
    if not wrong:
        return
    order = [wanted for _, _, wanted in found]
    if sorted(kind.value for _, kind, _ in found) == sorted(wanted.value for wanted in order):
        meant = sorted(found, key=lambda each: order.index(each[1]))
        raise PathKindError(
            f"{wrong[0][0]} is {wrong[0][1].value}, and {wrong[0][2].value} is needed in its place: the arguments are swapped; "
            f"run: mingle-edge {command} {shlex.join(str(path) for path, _, _ in meant)}"
        )
    path, kind, wanted = wrong[0]
    way = _WAYS.get((kind, wanted), f"name {wanted.value}").format(path=shlex.quote(str(path)))
    raise PathKindError(f"{path} is {kind.value}, and {command} needs {wanted.value} there; {way}")


def _holds_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(os.path.splitext(entry.name)[1].lower() in _SUFFIXES for entry in islice(entries, _LOOKED_AT))
    except OSError:
        return False


def _is_profile(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b'"mingle-edge profile"' in file.read(_HEAD)
    except OSError:
        return False
