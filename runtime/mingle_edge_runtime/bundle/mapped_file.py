"""Files that this process, or ONNX Runtime in it, reads through a mapping.

Where a mapped file becomes shorter, reading what is gone ends the process with a signal (SIGBUS) that no Python code can
turn into an error; where it is overwritten, runs read other numbers. So the file is kept open, and looked at before every
run; what happens to a file in the middle of a run still does its harm. Replacing a file by renaming another one over it, as
package managers do, is safe at any time: the mapping keeps the old one.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.errors import BundleError

_CHUNK = 1 << 20  # bytes
_DESCRIPTORS = Path("/proc/self/fd")  # Linux


class FileIdentity(NamedTuple):
    """Which file it is, and whether it was written to since."""

    device: int
    inode: int
    size: int
    """bytes"""
    modified: int
    """nanoseconds"""

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Return the identity in what `os.stat` says."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def path_of(descriptor: int) -> Path | None:
    """Return a path that leads to exactly what is open, wherever that was moved; None where the system has none."""
    path = _DESCRIPTORS / str(descriptor)
    return path if path.exists() else None


def unreadable(name: str, problem: OSError, error: type[BundleError]) -> BundleError:
    """Return the error to raise where the system does not let a file be opened or read."""
    if isinstance(problem, PermissionError):
        return error(f"{name} may not be read: give this user the permission to ({problem.strerror})")
    return error(f"{name} cannot be read: copy or export it again ({problem.strerror})")


class MappedFile:
    """An open file that must stay as it is."""

    def __init__(self, descriptor: int, path: Path, name: str, error: type[BundleError] = BundleError) -> None:
        """Take over `descriptor`, which is closed with this object.

        path: where the file was opened. name: what to call it in an `error`.
        """
        weakref.finalize(self, os.close, descriptor)
        self._descriptor, self._path = descriptor, path
        self.name, self.error = name, error
        self.identity = FileIdentity.of(os.fstat(descriptor))

    @property
    def size(self) -> int:
        """Return the bytes it had when it was opened."""
        return self.identity.size

    @property
    def location(self) -> Path:
        """Return a path for whoever opens files by path; `check_location` afterwards says whether that opened this one."""
        return path_of(self._descriptor) or self._path

    def check(self) -> None:
        """Raise the error where the file has become shorter or was written to."""
        actual = FileIdentity.of(os.fstat(self._descriptor))
        if actual == self.identity:
            return
        change = f"cut from {self.size} to {actual.size} bytes" if actual.size < self.size else "overwritten"
        raise self.error(f"{self.name} was {change} while it was in use: copy or export it again and reopen the bundle")

    def check_location(self) -> None:
        """Raise the error where `location` leads to another file, or to this one written to."""
        self.check()
        try:
            identity = FileIdentity.of(os.stat(self.location))
        except OSError:
            identity = None
        if identity != self.identity:
            raise self.error(f"{self.name} was replaced while the bundle was open: open the bundle again")

    def check_hash(self, sha256: str, progress: Callable[[int], None] | None = None) -> None:
        """Read all of it, and raise the error where its hash is not the given one, in hexadecimal.

        progress: called with the bytes of each chunk.
        """
        digest = hashlib.sha256()
        for chunk in self._chunks(0, self.size):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
        self.check()
        if digest.hexdigest() != sha256:
            raise self.error(
                f"{self.name} has sha256 {digest.hexdigest()[:12]}..., bundle.json says {sha256[:12]}...: "
                "the file is damaged, copy or export it again"
            )

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Read bytes `start` to `end` and return a copy. Raises the error where they cannot be read."""
        try:
            content = np.empty(end - start, np.uint8)
        except MemoryError as problem:
            raise self.error(f"{self.name} cannot be read: there is no memory for its {end - start} bytes") from problem
        done = 0
        for chunk in self._chunks(start, end):
            content[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            done += len(chunk)
        self.check()
        return content

    def read_through(self, start: int, end: int) -> None:
        """Return when the system has bytes `start` to `end` in its cache, so that touching them waits for no disk.

        By reading them in order, which every system does in large chunks; touched through a mapping they come a window of
        pages at a time (`benchmarks/cold_expert.py` compares the ways). Raises the error where they cannot be read.
        """
        for _ in self._chunks(start, end):
            pass

    def map(self) -> mmap.mmap:
        """Map the whole file, read-only. Raises the error where the system refuses."""
        try:
            return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as problem:
            raise self.error(f"{self.name} cannot be mapped: {problem}") from problem

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield bytes `start` to `end` in order, at most 1 MiB at a time."""
        while start < end:
            try:
                chunk = os.pread(self._descriptor, min(_CHUNK, end - start), start)
            except OSError as problem:
                raise unreadable(self.name, problem, self.error) from problem
            if not chunk:
                self.check()
                raise self.error(f"{self.name} ends at byte {start} of {end}: copy or export it again")
            yield chunk
            start += len(chunk)
