"""What a bundle's index says about files: their paths, sizes and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mingle_edge_runtime.errors import BundleError

Progress = Callable[[int, int], None]
"""Called with the number of bytes done and their total."""


@dataclass(frozen=True)
class FileRecord:
    """What `bundle.json` says about one file."""

    size: int
    """bytes"""
    sha256: str
    """64 lower-case hexadecimal digits"""

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Return size and hash of an existing file."""
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def check_relative(name: str, where: str) -> None:
    """Raise `BundleError` unless `name` is a `/`-separated path that cannot leave the folder it is joined to."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(mark in name for mark in "\\:\0"):
        raise BundleError(f"{where} is {name!r}: paths must be relative, use '/', and stay inside the bundle")
