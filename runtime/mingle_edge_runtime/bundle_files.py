"""The files of a bundle folder: which paths are allowed, and whether sizes and hashes are the recorded ones.

A bundle comes from elsewhere. Opening it must not open anything outside its folder, so a path is relative, has no `..`,
and leads to a plain file that is no symbolic and no hard link (ONNX Runtime from 1.24 on asks the same of external
data).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mingle_edge_runtime.errors import BundleError

Progress = Callable[[int, int], None]
"""Called with the number of bytes done and their total."""

_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class FileRecord:
    """What `bundle.json` says about one file."""

    size: int
    """bytes"""
    sha256: str
    """64 lower-case hexadecimal digits"""

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Size and hash of an existing file."""
        return cls(path.stat().st_size, sha256(path))


def sha256(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hash of a file in hexadecimal, read in chunks; `advance` is called with the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def check_relative(name: str, where: str) -> None:
    """Raise `BundleError` unless `name` is a `/`-separated path that cannot leave the folder it is joined to."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(mark in name for mark in "\\:\0"):
        raise BundleError(f"{where} is {name!r}: paths must be relative, use '/', and stay inside the bundle")


def check_plain_files(root: Path, files: Mapping[str, FileRecord]) -> None:
    """Raise `BundleError` unless all are unlinked plain files of the recorded sizes under `root`, reached through no link."""
    folders: set[str] = set()
    for name in files:
        check_relative(name, "files")
        parts = name.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    linked = {folder for folder in folders if os.path.islink(f"{root}/{folder}")}
    for name, record in files.items():
        path = f"{root}/{name}"
        try:
            status = os.lstat(path)
        except OSError as error:
            raise BundleError(f"{path} is listed in bundle.json but cannot be read: {error.strerror}") from error
        through_link = any(name.startswith(f"{folder}/") for folder in linked)
        if through_link or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise BundleError(f"{path} must be a plain file, not a link; copy the bundle with its links followed (cp -rL)")
        if status.st_size != record.size:
            raise BundleError(f"{path} has {status.st_size} bytes, bundle.json says {record.size}: copy or export it again")


def check_hashes(root: Path, files: Mapping[str, FileRecord], progress: Progress | None = None) -> None:
    """Read every file and raise `BundleError` at the first whose sha256 is not the recorded one."""
    total = sum(record.size for record in files.values())
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    check_plain_files(root, files)
    for name, record in files.items():
        actual = sha256(root / name, advance)
        if actual != record.sha256:
            raise BundleError(
                f"{root / name} has sha256 {actual[:12]}..., bundle.json says {record.sha256[:12]}...: "
                "the file is damaged, copy or export it again"
            )
