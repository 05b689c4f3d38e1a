"""One expert of the image scope: an adapter file in ONNX Runtime's own format (`onnxruntime.AdapterFormat`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mingle_edge_runtime.errors import ExpertError
from mingle_edge_runtime.mapped_file import MappedFile
from mingle_edge_runtime.nibbles import NIBBLES, expand
from mingle_edge_runtime.session import onnxruntime


@dataclass(frozen=True)
class AdapterValues:
    """An adapter that was read, not mapped."""

    values: dict[str, Any]
    """`onnxruntime.OrtValue`s by the name of the tower's optional input"""
    owner: Any
    """what the values' memory belongs to: ONNX Runtime 1.20 does not keep it alive for them"""

    def arrays(self) -> dict[str, NDArray[Any]]:
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
    file.read_through(0, size)
    adapter = onnxruntime().LoraAdapter()
    try:
        adapter.Load(str(path))
    except RuntimeError as error:
        raise _unreadable(path, task, error) from error
    return MappedAdapter(file, adapter)


def read_adapter(path: Path, size: int, task: str, inputs: Mapping[str, Any]) -> AdapterValues:
    """The parameters of a file of `size` bytes, in memory of the host, those in 4 bits expanded.

    inputs: the tower's optional inputs and their shapes. Raises `ExpertError` naming the task, also where one of them is
    missing.
    """
    file = MappedFile(path, size, f"expert {task!r} in {path}", ExpertError)
    ort = onnxruntime()
    try:
        owner = ort.AdapterFormat.read_adapter(str(path))
    except RuntimeError as error:
        raise _unreadable(path, task, error) from error
    file.check()
    values = owner.get_parameters()
    if any(name.endswith(NIBBLES) for name in values):
        arrays = expand({name: value.numpy() for name, value in values.items()}, inputs)
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        owner = (owner, arrays)  # what is not in 4 bits still lies in the adapter's memory
    missing = sorted(inputs.keys() - values.keys())
    if missing:
        raise ExpertError(f"expert {task!r} in {path} lacks {missing[0]}, which the tower needs: export the bundle again")
    return AdapterValues(values, owner)


def _unreadable(path: Path, task: str, error: Exception) -> ExpertError:
    reason = " ".join(str(error).split())[:200]
    return ExpertError(f"expert {task!r} in {path} cannot be read: copy or export it again ({reason})")
