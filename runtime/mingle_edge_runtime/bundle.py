"""The bundle: a folder that `mingle-edge export` writes and a device serves from.

`docs/bundle-format.md` is the specification. Opening a bundle reads `bundle.json` and checks the path and size of every
file it lists; it reads none of them. Hashes are checked by `Bundle.verify_hashes`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle_files import FileRecord, Progress, check_hashes, check_plain_files
from mingle_edge_runtime.bundle_index import (
    FORMAT,
    FORMAT_VERSION,
    INDEX_NAME,
    LARGEST_CODE,
    Architecture,
    BundleIndex,
    Defaults,
    DefaultTensor,
    Fidelity,
    LayerPages,
    PageBank,
    Preprocess,
    Router,
    Source,
    Task,
)
from mingle_edge_runtime.bundle_rules import check_rules
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.external_data import check_external_data
from mingle_edge_runtime.mapped_file import MappedFile

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "INDEX_NAME",
    "LARGEST_CODE",
    "Architecture",
    "Bundle",
    "BundleIndex",
    "DefaultTensor",
    "Defaults",
    "Fidelity",
    "FileRecord",
    "LayerPages",
    "PageBank",
    "Preprocess",
    "Router",
    "Source",
    "Task",
]

_LARGEST_INDEX = 64 << 20  # bytes; far above any real index, far below what would hurt


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose index has been read and whose files are present with the recorded sizes."""

    root: Path
    index: BundleIndex
    _locations: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read `bundle.json` and check every file's path, kind and size; no other file is read.

        Raises `BundleError`.
        """
        root = Path(path).resolve()
        index = BundleIndex.from_json(_read_json(root / INDEX_NAME))
        check_rules(index)
        check_plain_files(root, index.files)
        return cls(root, index)

    def file(self, name: str) -> Path:
        """Absolute path of a file of the bundle; `name` is one of `index.files`."""
        return self.root / name

    def graph(self, name: str) -> Path:
        """Absolute path of a graph, after a look at where it reads its weights from.

        Raises `BundleError` where that is not a file of the bundle.
        """
        self._external_data(name)
        return self.file(name)

    def weights(self, name: str) -> list[MappedFile]:
        """The files that a graph reads its weights from, open. Raises `BundleError` as `graph` does."""
        locations = self._external_data(name)
        return [MappedFile(self.file(file), self.index.files[file].size, str(self.file(file))) for file in locations]

    def _external_data(self, name: str) -> list[str]:
        if name not in self._locations:
            self._locations[name] = check_external_data(self.file(name), self.index.files)
        return self._locations[name]

    def read_defaults(self) -> dict[str, NDArray[np.float32]]:
        """Image scope: the plain backbone's vectors by internal name, from the file that the graphs share."""
        defaults = self.index.defaults
        if defaults is None:
            raise BundleError(f"{self.root} has no defaults: it is no bundle of the image scope")
        path = self.file(defaults.file)
        return {
            name: np.fromfile(path, "<f4", int(np.prod(tensor.shape)), offset=tensor.offset).reshape(tensor.shape)
            for name, tensor in defaults.tensors.items()
        }

    def verify_hashes(self, progress: Progress | None = None) -> None:
        """Read every file and compare its sha256 with the recorded one. Raises `BundleError` where they differ."""
        check_hashes(self.root, self.index.files, progress)


def _read_json(path: Path) -> object:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise BundleError(f"{path} has {path.stat().st_size} bytes; an index has at most {_LARGEST_INDEX}")
        value: object = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError as error:
        raise BundleError(f"{path} does not exist: name a folder that `mingle-edge export` wrote") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise BundleError(f"{path} is not valid JSON: {error}") from error
    return value
