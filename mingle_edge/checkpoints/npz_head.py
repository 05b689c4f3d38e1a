"""The arrays of scikit-learn's linear classifiers in a `.npz` archive, under the names of a linear layer."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.checkpoints.class_names import check_order
from mingle_edge.core.errors import CheckpointError, FileError, shown
from mingle_edge.files.plain_file import check_plain_file, refusal
from mingle_edge_runtime.bundle.npy_file import NpyError, read_npy

MOST_BYTES = 1 << 30
"""Of an array, whose entry may be compressed; a head of 100,000 classes and embeddings of 1,024 has 0.4e9."""


class NpzTensors:
    """`coef_` as `weight`, `intercept_` as `bias`, other arrays by their own names; see `StoredTensors`."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        """Read the archive. `classes_`, where it holds names, must be `classes`.

        scikit-learn stores a classifier of two classes as one row, the logit of the second; that of the first is then 0.

        Raises:
            CheckpointError: no archive, pickled objects in it, or other classes.
        """
        self.files = [path]
        arrays = _read(path)
        names = arrays.pop("classes_", None)
        if names is not None and names.dtype.kind == "U":
            check_order(classes, names.ravel().tolist(), f"{path}: classes_")
        renamed = {"coef_": "weight", "intercept_": "bias"}
        binary = "coef_" in arrays and arrays["coef_"].shape[:1] == (1,)
        self._arrays = {
            renamed.get(name, name): np.concatenate([np.zeros_like(array), array]) if binary and array.ndim else array
            for name, array in arrays.items()
        }

    def names(self) -> list[str]:
        """See `StoredTensors`, as of the others."""
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def dtype(self, name: str) -> str:
        return str(self._arrays[name].dtype)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        return torch.tensor(self._arrays[name][... if rows is None else rows])


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        check_plain_file(path)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if large := next((entry for entry in entries if entry.file_size > MOST_BYTES), None):
                raise CheckpointError(f"{path}: {shown(large.filename)} has more than {MOST_BYTES} bytes; save the head alone")
            return {entry.filename.removesuffix(".npy"): read_npy(archive.read(entry)) for entry in entries}
    except FileError as error:
        raise CheckpointError(str(error)) from error
    except NpyError as error:
        raise CheckpointError(
            f"{path} cannot be read without pickle: {error}; save arrays of numbers, and names as classes_.astype(str)"
        ) from error
    except PermissionError as error:
        raise CheckpointError(f"{path} {refusal(error)}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or no .npz archive ({error}); save it again") from error
