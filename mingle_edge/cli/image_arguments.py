"""Images named on a command line: files, folders, patterns that the shell left alone, and names on standard input."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mingle_edge.core.errors import ImageFolderError

STDIN = Path("-")
_CHUNK = 1 << 16  # bytes
_URL = re.compile("(https?|ftps?|s3|gs|file):/", re.IGNORECASE)  # a path has no two slashes in a row


class ImageArguments:
    """Iterates over the paths that arguments stand for. Folders and patterns are looked into at once, names read as they come.

    Files that cannot be read are among them, to be named where they are opened.
    """

    def __init__(self, arguments: Sequence[Path]) -> None:
        self.unusable: list[tuple[Path, str]] = []
        """folders and patterns that stand for no image, each with what is wrong"""
        self.done = 0
        """images that whoever iterates is done with"""
        self._read = 0
        self._paths: list[Path] = []
        for argument in arguments:
            try:
                self._paths += _expand(argument)
            except ImageFolderError as error:
                self.unusable.append((argument, str(error)))
        self._total = len(self._paths)
        self._endless = STDIN in self._paths

    @property
    def progress(self) -> str:
        """Return how many are done, of how many, as in `3 of 10 images`; further names may still be to come."""
        return f"{self.done} of {f'the {self._read} images named so far' if self._endless else f'{self._total} images'}"

    def __iter__(self) -> Iterator[Path]:
        for path in self._paths:
            for image in _names() if path == STDIN else [path]:
                self._read += 1
                yield image
        self._total, self._endless = self._read, False


def _expand(argument: Path) -> list[Path]:
    """Return the files that an argument stands for. Raises `ImageFolderError` where there is none."""
    if os.path.isdir(argument):
        from mingle_edge.data.image_folder import list_images

        unread: list[Path] = []
        return sorted(list_images(argument, unread=unread) + unread)
    if not os.path.lexists(argument) and _URL.match(str(argument)):
        url = _URL.sub(r"\1://", str(argument))
        raise ImageFolderError(f"{url} is a URL, and nothing is downloaded here; download it, and name the file")
    if not os.path.lexists(argument) and glob.has_magic(str(argument)):
        found = sorted(Path(name) for name in glob.iglob(str(argument), recursive=True) if os.path.isfile(name))
        if not found:
            raise ImageFolderError(f"no file matches {argument}; correct the pattern")
        return found
    return [argument]


def _names() -> Iterator[Path]:
    """Yield the names on standard input as they come, one a line, blank lines left out."""
    stream = sys.stdin.buffer
    # Not through the buffer: it is locked while it waits, and a process that ends then ends with a complaint.
    stream = getattr(stream, "raw", stream)
    rest = b""
    while chunk := stream.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (Path(os.fsdecode(line)) for line in map(_strip, lines) if line)
    if name := _strip(rest):
        yield Path(os.fsdecode(name))


def _strip(line: bytes) -> bytes:
    return line.removesuffix(b"\r")
