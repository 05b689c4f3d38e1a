"""One expert of the image scope: an adapter file in ONNX Runtime's own format (`onnxruntime.AdapterFormat`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.index import Task
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.errors import ExpertError
from mingle_edge_runtime.experts.adapter_tensors import adapter_tensors, check_fit
from mingle_edge_runtime.experts.int4 import INT4_SUFFIX, expand
from mingle_edge_runtime.ort.session import OptionalInput, onnxruntime, printable


@dataclass(frozen=True)
class MappedAdapter:
    """An adapter that a run reads from its file without a copy."""

    file: MappedFile
    adapter: Any
    """`onnxruntime.LoraAdapter`"""

    def ready(self) -> Any:
        """Return the adapter for the run that follows at once. Raises `ExpertError` where the file was cut or overwritten."""
        self.file.check()
        return self.adapter


def map_adapter(bundle: Bundle, task: Task, inputs: Mapping[str, OptionalInput]) -> MappedAdapter:
    """Map the adapter of a task, once all of it is in the system's cache, and return it.

    inputs: the tower's optional ones.

    Raises `ExpertError` naming the task.
    """
    file = _open(bundle, task)
    file.read_through(0, file.size)
    check_fit(adapter_tensors(np.frombuffer(file.map(), np.uint8), file.name), inputs, file.name)
    adapter = onnxruntime().LoraAdapter()
    try:
        adapter.Load(str(file.location))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExpertError(f"{file.name} cannot be read: copy or export it again ({printable(error)})") from error
    file.check_location()
    return MappedAdapter(file, adapter)


def read_adapter(bundle: Bundle, task: Task, inputs: Mapping[str, OptionalInput]) -> dict[str, NDArray[Any]]:
    """Return the parameters of a task's adapter by name, in the host's memory, those of 4 bits expanded.

    inputs: the tower's optional ones.

    Raises `ExpertError` naming the task.
    """
    file = _open(bundle, task)
    return adapter_values(file.read(0, file.size), inputs, file.name)


def adapter_values(content: NDArray[np.uint8], inputs: Mapping[str, OptionalInput], title: str) -> dict[str, NDArray[Any]]:
    """Return the parameters in the bytes of an adapter file by name, those of 4 bits expanded.

    inputs: the tower's optional ones.
    title: what to call the file.

    Raises `ExpertError`.
    """
    tensors = adapter_tensors(content, title)
    if any(name.endswith(INT4_SUFFIX) for name in tensors):
        try:
            tensors = expand(tensors, {name: wanted.shape for name, wanted in inputs.items()})
        except ExpertError as error:
            raise ExpertError(f"{title}, {error}") from error
    check_fit(tensors, inputs, title)
    return tensors


def _open(bundle: Bundle, task: Task) -> MappedFile:
    name = str(task.expert)
    return bundle.open_file(name, f"expert {task.name!r} in {bundle.file(name)}", ExpertError)
