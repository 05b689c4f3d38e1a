"""Images out of larger files, made into files of their own the first time they are asked for."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.files.atomic_files import why_not_written
from mingle_edge.files.partial_folder import partial_folder
from mingle_edge_runtime.images.image_file import open_image

VARIABLE = "MINGLE_EDGE_CACHE"
_FILE = re.compile(r"(\d{7,})\.[a-z0-9]+")


def cache_folder() -> Path:
    """Return the folder that `MINGLE_EDGE_CACHE` in the environment names, or `~/.cache/mingle-edge`; it need not exist yet."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "mingle-edge"


def cached_images(
    source: Path,
    part: str,
    numbers: Sequence[int],
    encoded: Callable[[list[int]], Iterator[tuple[int, bytes]]],
    said: Callable[[int], str],
) -> dict[int, Path]:
    """Return number -> file, of these images; those not in the cache folder yet are written, each whole or not at all.

    part: which images of the file `source` the numbers count.
    encoded: yields numbers with encoded images, of sorted numbers.
    said: what an image is called in a message.

    Raises `ImageFolderError`.
    """
    folder = _folder(source, part)
    try:
        there = _finished(folder)
        missing = sorted(set(numbers) - there.keys())
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            with partial_folder(folder, "images") as unfinished:
                (unfinished / ".source").write_bytes(os.fsencode(source.resolve()) + b"\n")
                os.replace(unfinished / ".source", folder / ".source")
                for number, content in encoded(missing):
                    name = f"{number:07d}{_suffix(content, source, said(number))}"
                    (unfinished / name).write_bytes(content)
                    os.replace(unfinished / name, folder / name)
                    there[number] = folder / name
    except OSError as error:
        raise ImageFolderError(
            f"{folder}: {why_not_written(error)} (the environment variable {VARIABLE} names the folder for images of "
            "parquet and tar files)"
        ) from error
    if lacking := set(numbers) - there.keys():
        raise ImageFolderError(f"{source}: {said(min(lacking))} has no {part}; copy or download it again")
    return {number: there[number] for number in numbers}


def _folder(source: Path, part: str) -> Path:
    """Return a folder that belongs to a file as it is now, and to the part of it that holds images."""
    status = source.stat()
    identity = f"{source.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{part}"
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
    return cache_folder() / "images" / f"{source.stem}-{digest[:16]}"


def _finished(folder: Path) -> dict[int, Path]:
    """List the images of a cache folder by number; an empty file is what a power failure left, and others are not ours."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        named = ((entry, _FILE.fullmatch(entry.name)) for entry in entries)
        return {int(match[1]): Path(entry.path) for entry, match in named if match and entry.stat().st_size > 0}


def _suffix(content: bytes, source: Path, said: str) -> str:
    """Return what the file of an image is to end in, which is to be one."""
    try:
        with open_image(io.BytesIO(content)) as image:
            return f".{image.format or 'image'}".lower()
    except Exception as error:  # Pillow raises much besides OSError on broken files
        raise ImageFolderError(f"{source}: the image of {said} cannot be read ({error}); leave it out") from error
