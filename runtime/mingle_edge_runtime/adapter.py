"""One expert of the image scope: an adapter file in ONNX Runtime's own format (`onnxruntime.AdapterFormat`)."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.errors import ExpertError
from mingle_edge_runtime.read_ahead import windows
from mingle_edge_runtime.session import onnxruntime


@dataclass(frozen=True)
class AdapterValues:
    """An adapter that was read, not mapped."""

    values: dict[str, Any]
    """`onnxruntime.OrtValue`s by the name of the tower's optional input"""
    owner: Any
    """what the values' memory belongs to: ONNX Runtime 1.20 does not keep it alive for them"""

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Views of the values, valid as long as this object lives."""
        return {name: value.numpy() for name, value in self.values.items()}


def map_adapter(path: Path, size: int, task: str) -> Any:
    """The `onnxruntime.LoraAdapter` of a file of `size` bytes: mapped, so that a run reads it without a copy.

    Raises `ExpertError` naming the task.
    """
    _check_size(path, size, task)
    _read_ahead(path, size)
    adapter = onnxruntime().LoraAdapter()
    try:
        adapter.Load(str(path))
    except RuntimeError as error:
        raise _unreadable(path, task, error) from error
    return adapter


def read_adapter(path: Path, size: int, task: str, required: Collection[str]) -> AdapterValues:
    """The parameters of a file of `size` bytes, in memory of the host.

    Raises `ExpertError` naming the task, also where a `required` parameter is missing.
    """
    _check_size(path, size, task)
    ort = onnxruntime()
    try:
        owner = ort.AdapterFormat.read_adapter(str(path))
    except RuntimeError as error:
        raise _unreadable(path, task, error) from error
    values = owner.get_parameters()
    missing = sorted(set(required) - values.keys())
    if missing:
        raise ExpertError(f"expert {task!r} in {path} lacks {missing[0]}, which the tower needs: export the bundle again")
    return AdapterValues(values, owner)


def _check_size(path: Path, size: int, task: str) -> None:
    """A mapped file that is shorter than its contents say would end the process on the first access."""
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, task, error) from error
    if actual != size:
        raise ExpertError(f"expert {task!r} in {path} has {actual} bytes instead of {size}: copy or export it again")


def _read_ahead(path: Path, size: int) -> None:
    """Ask the system to read the whole file now, not page by page as a run touches it."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            for offset, length in windows(0, size):
                os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_WILLNEED)


def _unreadable(path: Path, task: str, error: Exception) -> ExpertError:
    reason = " ".join(str(error).split())[:200]
    return ExpertError(f"expert {task!r} in {path} cannot be read: copy or export it again ({reason})")
