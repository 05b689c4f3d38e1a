"""Decoding image files as a device does, and checking all of them before the work that needs them. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.files.plain_file import refusal
from mingle_edge_runtime.images.image_file import read_image

_NAMED = 3  # broken images named in a message
_AT_ONCE = 512  # images handed to the threads that check them
_MOST_THREADS = 8  # each holds a decoded image
T = TypeVar("T")


def check_images(paths: Sequence[Path], progress: Progress = silent) -> None:
    """Decode every image fully, before the work that needs them. Raises `ImageFolderError` naming the first broken ones.

    A file that was cut short has a sound header, so nothing less finds it. Pillow decodes outside of Python's lock: on n cores
    it takes an n-th of what decoding all of them once takes.
    """
    broken: list[str] = []
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        for start in range(0, len(paths), _AT_ONCE):
            if start:
                progress("images", start, len(paths))
            broken += filter(None, threads.map(_fault_in, paths[start : start + _AT_ONCE]))
    if broken:
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ImageFolderError("; ".join(broken[:_NAMED]) + more)
    progress("images", len(paths), len(paths))


def decode_image(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Return `use` of an image decoded as on a device. Raises `ImageFolderError` naming the file, whatever is wrong with it."""
    try:
        return use(read_image(path))
    except Exception as error:
        if isinstance(error.__cause__, PermissionError):
            raise ImageFolderError(f"{path} {refusal(error.__cause__)}") from error
        raise ImageFolderError(f"{path} cannot be decoded ({error}); replace or remove it") from error


def _fault_in(path: Path) -> str | None:
    """Say what is wrong with an image; None where it is sound."""
    try:
        decode_image(path, Image.Image.load)
    except ImageFolderError as error:
        return str(error)
    return None
