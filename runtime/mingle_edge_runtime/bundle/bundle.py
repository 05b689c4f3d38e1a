"""The bundle: a folder that `mingle-edge export` writes and a device serves from.

`docs/bundle-format.md` is the specification. Opening a bundle reads `bundle.json` and checks the path and size of every
file it lists; it reads none of them. What is read later is what was there then, whatever became of the folder since.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.external_data import check_external_data
from mingle_edge_runtime.bundle.folder import BundleFolder
from mingle_edge_runtime.bundle.graph import Graph
from mingle_edge_runtime.bundle.index import INDEX_NAME, BundleIndex
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.bundle.rules import check_rules
from mingle_edge_runtime.errors import BundleError, EdgeError, NoBundleError

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of bytes done and their total."""
_LARGEST_INDEX = 64 << 20  # bytes; far above any real index, far below what would hurt
_LARGEST_READ = (1 << 31) - 1  # bytes; no graph is larger, as ONNX Runtime's own reader ends there


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose index has been read and whose files are present with the recorded sizes.

    A file that is read later is the one that was there when the bundle was opened; else it is an error. The folder's descriptor
    is closed with the last object that needs it.
    """

    root: Path
    index: BundleIndex
    digest: str
    """sha256 of `bundle.json` in hexadecimal"""
    check_hashes: bool = False
    """whether the hashes of experts and weights are compared when they are first opened; those of all other files always
    are"""
    _folder: BundleFolder | None = field(default=None, repr=False, compare=False)
    _hashed: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _weights: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | PathLike[str], check_hashes: bool = False) -> Bundle:
        """Read `bundle.json` and check every file's path, kind and size; no other file is read.

        check_hashes: see `EdgeModel.open`.

        Raises `BundleError`.
        """
        folder = BundleFolder(path)
        content = _read_index(folder)
        index = BundleIndex.from_json(_parse(content, folder.root / INDEX_NAME))
        check_rules(index)
        folder.find_all(index.files)
        return cls(folder.root, index, hashlib.sha256(content).hexdigest(), check_hashes, folder)

    @classmethod
    def unpublished(cls, path: str | PathLike[str], index: BundleIndex) -> Bundle:
        """Open a bundle whose index is not written yet, as the exporter does to check it. Raises `BundleError`."""
        folder = BundleFolder(path)
        folder.find_all(index.files)
        return cls(folder.root, index, "", _folder=folder)

    def without_files(self) -> Bundle:
        """Return the index alone: nothing of the folder stays open, and nothing can be read from it."""
        return replace(self, _folder=None)

    def file(self, name: str) -> Path:
        """Return the absolute path of a file, where it was when the bundle was opened; `name` is one of `index.files`."""
        return self.root / name

    def open_file(self, name: str, title: str | None = None, error: type[BundleError] = BundleError) -> MappedFile:
        """Open a file that was there when the bundle was opened, and check its hash first where `check_hashes` asks for it.

        title: what to call it in an `error`.

        Raises `error` where it is gone, was replaced, or has another hash.
        """
        file = self._opened_folder().open(name, title or str(self.file(name)), error)
        if self.check_hashes:
            self._check_hash(name, file)
        return file

    def read(self, name: str, largest: int = _LARGEST_READ) -> bytes:
        """Read a whole file of at most `largest` bytes, and check its hash. Raises `BundleError`."""
        file = self.open_file(name)
        if file.size > largest:
            raise BundleError(f"{file.name} has {file.size} bytes, must have at most {largest}: export the bundle again")
        self._check_hash(name, file)
        return file.read(0, file.size).tobytes()

    def graph(self, name: str) -> Graph:
        """Read a graph, check its hash, and open the files that it takes its weights from.

        Raises `BundleError`, also where it reads them from anywhere else.
        """
        content = self.read(name)
        if name not in self._weights:
            self._weights[name] = check_external_data(content, str(self.file(name)), self.index.files)
        weights = self._weights[name]
        files = tuple(self.open_file(file) for file in weights)
        folder = self._opened_folder()
        return Graph(self.file(name), folder.location / name, files, partial(folder.check_located, [name, *weights]))

    def read_defaults(self) -> dict[str, NDArray[np.float32]]:
        """Return the plain backbone's vectors by internal name, from the file that the graphs share (image scope)."""
        defaults = self.index.defaults
        if defaults is None:
            raise BundleError(f"{self.root} has no defaults: it is no bundle of the image scope")
        file = self.open_file(defaults.file)
        return {
            name: file.read(tensor.offset, tensor.offset + 4 * math.prod(tensor.shape)).view("<f4").reshape(tensor.shape)
            for name, tensor in defaults.tensors.items()
        }

    def verify_hashes(self, progress: Progress | None = None) -> None:
        """Read every file and compare its sha256 with the recorded one. Raises `BundleError` where they differ."""
        total, done = sum(record.size for record in self.index.files.values()), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total)

        for name in self.index.files:
            self._hashed.discard(name)
            self._check_hash(name, self._opened_folder().open(name, str(self.file(name))), advance)

    def _opened_folder(self) -> BundleFolder:
        if self._folder is None:
            raise EdgeError(f"the bundle {self.root} is closed: open it again")
        return self._folder

    def _check_hash(self, name: str, file: MappedFile, progress: Callable[[int], None] | None = None) -> None:
        """Compare a file's hash once: what is opened later is the same file."""
        if name not in self._hashed:
            file.check_hash(self.index.files[name].sha256, progress)
            self._hashed.add(name)


def _read_index(folder: BundleFolder) -> bytes:
    path = folder.root / INDEX_NAME
    try:
        size = folder.find(INDEX_NAME)
    except FileNotFoundError as error:
        raise NoBundleError(f"{path} does not exist: name a folder that `mingle-edge export` wrote") from error
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}; copy the bundle again as a user who may read it"
        ) from error
    if size > _LARGEST_INDEX:
        raise BundleError(f"{path} has {size} bytes; an index has at most {_LARGEST_INDEX}: copy or export it again")
    return folder.open(INDEX_NAME, str(path)).read(0, size).tobytes()


def _parse(content: bytes, path: Path) -> object:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        value: object = json.loads(content.decode(), parse_constant=refuse)
    except (ValueError, RecursionError, MemoryError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise BundleError(f"{path} is not valid JSON: {error}") from error
    return value
