"""Files that this process, or ONNX Runtime in it, reads through a mapping.

Where a mapped file becomes shorter, reading what is gone ends the process with a signal (SIGBUS) that no Python code can
turn into an error. So the file is kept open and its length looked at before every run; a file cut in the middle of a run
still ends the process. Replacing a file by renaming another one over it, as package managers do, is safe at any time: the
mapping keeps the old one.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

from mingle_edge_runtime.errors import BundleError

_PIECE = 1 << 20  # bytes


class MappedFile:
    """An open file whose length is known."""

    def __init__(self, path: Path, size: int, name: str, error: type[BundleError] = BundleError) -> None:
        """size: bytes the file must have. name: what to call it in an `error`.

        Raises `error` where it cannot be opened or has another size.
        """
        self._size, self._name, self._error = size, name, error
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise error(f"{name} cannot be read: copy or export it again ({problem.strerror})") from problem
        weakref.finalize(self, os.close, self._descriptor)
        if (actual := self._actual_size()) != size:
            raise error(f"{name} has {actual} bytes instead of {size}: copy or export it again")

    def check(self) -> None:
        """Raise the error where the file has become shorter."""
        if (actual := self._actual_size()) < self._size:
            raise self._error(
                f"{self._name} was cut from {self._size} to {actual} bytes while it was in use: copy or export it again and "
                "reopen the bundle"
            )

    def read_through(self, start: int, end: int) -> None:
        """Return when the system has bytes `start` to `end` in its cache, so that touching them waits for no disk.

        By reading them in order, which every system does in large pieces; touched through a mapping they come a window of
        pages at a time (`benchmarks/cold_expert.py` compares the ways). Raises the error where they cannot be read.
        """
        for offset in range(start, end, _PIECE):
            try:
                read = os.pread(self._descriptor, min(_PIECE, end - offset), offset)
            except OSError as problem:
                raise self._error(f"{self._name} cannot be read: copy or export it again ({problem.strerror})") from problem
            if not read:
                self.check()

    def map(self) -> mmap.mmap:
        """The whole file, read-only. Raises the error where the system refuses."""
        try:
            return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as problem:
            raise self._error(f"{self._name} cannot be mapped: {problem}") from problem

    def _actual_size(self) -> int:
        return os.fstat(self._descriptor).st_size
