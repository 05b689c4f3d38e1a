"""One expert of the image scope: an adapter file in ONNX Runtime's own format (`onnxruntime.AdapterFormat`)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.errors import ExpertError
from mingle_edge_runtime.mapped_file import MappedFile
from mingle_edge_runtime.read_ahead import read_in
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


@dataclass(frozen=True)
class MappedAdapter:
    """An adapter that a run reads from its file without a copy."""

    file: MappedFile
    adapter: Any
    """`onnxruntime.LoraAdapter`"""

    def ready(self) -> Any:
        """The adapter, for the run that follows at once. Raises `ExpertError` where the file has become shorter."""
        self.file.check()
        return self.adapter


def map_adapter(path: Path, size: int, task: str) -> MappedAdapter:
    """The adapter in a file of `size` bytes, all of it read into the system's cache.

    Raises `ExpertError` naming the task.
    """
    file = MappedFile(path, size, f"expert {task!r} in {path}", ExpertError)
    adapter = onnxruntime().LoraAdapter()
    try:
        with file.map() as mapping:  # ONNX Runtime's own mapping cannot be reached
            read_in(mapping, 0, size)
        adapter.Load(str(path))
    except (RuntimeError, OSError) as error:
        raise _unreadable(path, task, error) from error
    return MappedAdapter(file, adapter)


def read_adapter(path: Path, size: int, task: str, required: Collection[str], device: str | None) -> AdapterValues:
    """The parameters of a file of `size` bytes, in memory of `device` ("cuda"), or of the host where it is None.

    Raises `ExpertError` naming the task, also where a `required` parameter is missing.
    """
    file = MappedFile(path, size, f"expert {task!r} in {path}", ExpertError)
    ort = onnxruntime()
    try:
        owner = ort.AdapterFormat.read_adapter(str(path))
    except RuntimeError as error:
        raise _unreadable(path, task, error) from error
    file.check()
    values = owner.get_parameters()
    missing = sorted(set(required) - values.keys())
    if missing:
        raise ExpertError(f"expert {task!r} in {path} lacks {missing[0]}, which the tower needs: export the bundle again")
    if device is None:
        return AdapterValues(values, owner)
    copies = {name: ort.OrtValue.ortvalue_from_numpy(value.numpy(), device, 0) for name, value in values.items()}
    return AdapterValues(copies, None)


def _unreadable(path: Path, task: str, error: Exception) -> ExpertError:
    reason = " ".join(str(error).split())[:200]
    return ExpertError(f"expert {task!r} in {path} cannot be read: copy or export it again ({reason})")
