"""Files of tensors in a merged model: read with checks, written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mingle_edge.core.errors import FileError, MergedModelError
from mingle_edge.files.atomic_files import make_folder, replacing, why_not_written
from mingle_edge.files.plain_file import check_plain_file, find_file, refusal

Arrays = dict[str, NDArray[np.float32]]


def read_tensors(path: Path, prefix: str, *, empty: bool = False) -> Arrays:
    """Return the tensors of a file whose names begin with a prefix, by what follows it.

    empty: whether there may be none. Raises `MergedModelError` where the file cannot be read.
    """
    with _opened(path) as file:
        names = [name for name in sorted(file.keys()) if name.startswith(prefix)]
        tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    if not tensors and not empty:
        raise MergedModelError(f"{path}: holds no tensors named {prefix}*; restore it or merge again")
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a file's tensors by name, and read no tensor. Raises `MergedModelError` where it cannot be read."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file of tensors; what goes wrong within the block is a `MergedModelError`."""
    if find(path) is None:
        raise MergedModelError(f"{path}: missing from the merged model; restore it or merge again")
    try:
        check_plain_file(path)
        with path.open("rb"):
            pass  # safetensors calls a file missing that may not be read
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileError as error:
        raise MergedModelError(str(error)) from error
    except PermissionError as error:
        raise MergedModelError(f"{path} {refusal(error)}") from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:  # the last two of types that numpy has not
        raise MergedModelError(f"{path}: cannot be read ({error}); restore it or merge again") from error


def find(path: Path) -> os.stat_result | None:
    """Return the status of a file of the model, None where there is none. Raises `MergedModelError` where nobody may look."""
    try:
        return find_file(path)
    except FileError as error:
        raise MergedModelError(str(error)) from error


def length(tensors: Arrays, name: str, axis: int = 0) -> int:
    """Return a side of a tensor whose length is its own; 0, which no shape then fits, where there is no such side."""
    return tensors[name].shape[axis] if name in tensors and tensors[name].ndim > axis else 0


def check_tensors(path: Path, tensors: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that there are these tensors and no others, of float32 and these shapes, and that all values are finite.

    Raises:
        MergedModelError: naming the file and the first tensor that is wrong.
    """
    check_shapes(path, {name: array.shape for name, array in tensors.items()}, shapes)
    for name, array in sorted(tensors.items()):
        if array.dtype != np.float32:
            raise MergedModelError(f"{path}: {name} is {array.dtype}, must be float32; restore it or merge again")
        if not np.isfinite(array).all():
            raise MergedModelError(f"{path}: {name} holds values that are not finite; restore it or merge again")


def check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that tensors of a file have these names and shapes. Raises `MergedModelError` naming the first that is wrong."""
    for name in sorted(shapes.keys() | found.keys()):
        if name not in found:
            raise MergedModelError(f"{path}: holds no tensor {name}; restore it or merge again")
        if name not in shapes:
            raise MergedModelError(f"{path}: holds a tensor {name}, which does not belong there; restore it or merge again")
        if found[name] != shapes[name]:
            raise MergedModelError(
                f"{path}: {name} is {list(found[name])}, must be {list(shapes[name])}; restore it or merge again"
            )


def save(path: Path, tensors: Arrays) -> None:
    """Write a file of tensors, whole or not at all. Raises `MergedModelError` where the disk refuses it."""
    try:
        make_folder(path.parent)
        with replacing(path) as written:
            save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, written)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # all that safetensors says of a full disk
        cause = OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))
        raise MergedModelError(f"{path}: {why_not_written(cause)}") from error
    except OSError as error:
        raise MergedModelError(f"{path}: {why_not_written(error)}") from error
