"""Telling a pretrained tag of open_clip from a path and from a name on the hub."""

from __future__ import annotations

from pathlib import Path

from mingle_edge.errors import CheckpointError, FileError
from mingle_edge.hub import is_hub_reference
from mingle_edge.plain_file import find_file


def is_there(path: Path) -> bool:
    """Whether there is anything at a path. Raises `CheckpointError` where it may not be looked at."""
    try:
        return find_file(path) is not None
    except FileError as error:
        raise CheckpointError(str(error)) from error


def is_tag(name: str, base: Path) -> bool:
    """Whether weights are named by a tag: by nothing on the hub, and by no path relative to `base`."""
    return not is_hub_reference(name) and not is_there(base / name)
