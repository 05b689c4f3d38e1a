"""The folder of an open bundle, held by a descriptor: what is opened later comes from the folder that was opened.

A bundle comes from elsewhere, and may be replaced while it is served. So nothing but a plain file is ever opened (a pipe would
hang, a link would lead anywhere), every file is the one that was there when the bundle was opened (device, inode, size, time
of modification), and a new folder renamed into the place of this one changes nothing.

Links are followed in one place alone: a snapshot in a Hugging Face cache, `<kind>s--<owner>--<name>/snapshots/<commit>/...`, is
made of links, which must lead to plain files directly in `blobs` of that same `<kind>s--<owner>--<name>`.
"""

from __future__ import annotations

import os
import re
import stat
import weakref
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from mingle_edge_runtime.bundle.index import INDEX_NAME, FileRecord
from mingle_edge_runtime.bundle.mapped_file import FileIdentity, MappedFile, path_of, unreadable
from mingle_edge_runtime.bundle.rules import check_relative
from mingle_edge_runtime.errors import BundleError, NoBundleError

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_HUB_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")


class _Place(NamedTuple):
    """Where a listed file is opened."""

    folder: int
    """descriptor"""
    name: str
    """relative to it"""
    identity: FileIdentity


class BundleFolder:
    """An open folder; its descriptors are closed with this object."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Open the folder. Raises `NoBundleError` where there is none, `BundleError` where this user may not read it."""
        try:
            self.root = Path(os.path.realpath(path))
            self._descriptor = os.open(self.root, _FOLDER_FLAGS)
        except (FileNotFoundError, NotADirectoryError) as problem:
            raise NoBundleError(
                f"{self.root / INDEX_NAME} does not exist: name a folder that `mingle-edge export` wrote"
            ) from problem
        except OSError as problem:
            raise unreadable(str(self.root), problem, BundleError) from problem
        except ValueError as problem:  # a null byte, or what no file system can hold
            raise NoBundleError(
                f"{str(path)!a} is no path: {problem}; name a folder that `mingle-edge export` wrote"
            ) from problem
        weakref.finalize(self, os.close, self._descriptor)
        self._blobs: Path | None = None
        self._places: dict[str, _Place] = {}
        repository = next((folder.parent.parent for folder in (self.root, *self.root.parents) if _is_snapshot(folder)), None)
        if repository is not None and (repository / "blobs").is_dir() and not (repository / "blobs").is_symlink():
            self._blobs = repository / "blobs"
            self._blobs_descriptor = os.open(self._blobs, _FOLDER_FLAGS)
            weakref.finalize(self, os.close, self._blobs_descriptor)

    @property
    def location(self) -> Path:
        """Return a path for ONNX Runtime, which opens files by path: to this very folder where the system can say so."""
        return path_of(self._descriptor) or self.root

    def find(self, name: str) -> int:
        """Return the size of a plain file in bytes; `open` opens it from now on.

        Raises `BundleError` where it is none, has several names, or is reached through a link that is not of a hub's cache;
        `OSError` where nothing is known of it.
        """
        folder, inside = self._blob(name) or (self._descriptor, name)
        status = os.stat(inside, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise self._no_plain_file(name)
        self._places[name] = _Place(folder, inside, FileIdentity.of(status))
        return status.st_size

    def find_all(self, files: Mapping[str, FileRecord]) -> None:
        """Call `find` for all files of an index. Raises `BundleError`, also where a size is not the recorded one."""
        for name in files:
            check_relative(name, "files")
        parts = [name.split("/") for name in files]
        folders = {"/".join(steps[:depth]) for steps in parts for depth in range(1, len(steps))}
        linked = tuple(f"{folder}/" for folder in folders if self._is_link(folder))
        for name, record in files.items():
            if name.startswith(linked):
                raise self._no_plain_file(name)
            try:
                size = self.find(name)
            except OSError as problem:
                raise BundleError(
                    f"{self.root / name} is listed in bundle.json but cannot be read: {problem.strerror}; "
                    "copy or export it again"
                ) from problem
            if size != record.size:
                raise BundleError(
                    f"{self.root / name} has {size} bytes, bundle.json says {record.size}: copy or export it again"
                )

    def open(self, name: str, title: str, error: type[BundleError] = BundleError) -> MappedFile:
        """Open a file that `find` has seen.

        title: what to call it in an `error`, which is raised where it is not that file any more.
        """
        place = self._places[name]
        try:
            descriptor = os.open(place.name, _FLAGS, dir_fd=place.folder)
        except (FileNotFoundError, NotADirectoryError) as problem:
            raise error(f"{title} is gone since the bundle was opened: open the bundle again") from problem
        except OSError as problem:
            raise unreadable(title, problem, error) from problem
        file = MappedFile(descriptor, self.root / name, title, error)
        if file.identity == place.identity:
            return file
        size = place.identity.size
        change = "" if file.size == size else f"it has {file.size} bytes instead of {size}, copy or export it again; "
        raise error(f"{title} was replaced while the bundle was open: {change}open the bundle again")

    def check_located(self, names: Iterable[str]) -> None:
        """Raise `BundleError` where the file that somebody opened by `location` is not the one that was listed."""
        for name in names:
            try:
                identity = FileIdentity.of(os.stat(self.location / name))
            except OSError:
                identity = None
            if identity != self._places[name].identity:
                raise BundleError(f"{self.root / name} was replaced while the bundle was open: open the bundle again")

    def _blob(self, name: str) -> tuple[int, str] | None:
        """Return where a link of a hub's cache leads, as a descriptor and a name; None for anything else."""
        if self._blobs is None or not self._is_link(name):
            return None
        target = self.root / name
        target = target.parent / os.readlink(name, dir_fd=self._descriptor)
        if Path(os.path.realpath(target.parent)) != self._blobs or target.name in ("", ".", ".."):
            return None
        return self._blobs_descriptor, target.name

    def _is_link(self, name: str) -> bool:
        try:
            return stat.S_ISLNK(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def _no_plain_file(self, name: str) -> BundleError:
        return BundleError(
            f"{self.root / name} must be a plain file, not a link; copy the bundle with its links followed (cp -rL)"
        )


def _is_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots" and _HUB_REPOSITORY.fullmatch(folder.parent.parent.name) is not None
