"""One expert of the image scope: an adapter file in ONNX Runtime's own format (`onnxruntime.AdapterFormat`).

Experts stored in 4 bits are expanded when they are opened: codes in blocks become 8-bit codes with one scale a rank row. A file
of 4-bit codes is half as large to keep and to read; the graph multiplies 8-bit ones (docs/bundle-format.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.index import LARGEST_CODE, Task
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.errors import ExpertError
from mingle_edge_runtime.experts.adapter_tensors import adapter_tensors, check_fit
from mingle_edge_runtime.ort.session import OptionalInput, onnxruntime, printable

_INT4_SUFFIX = "_nibbles"  # ends the name of a parameter in 4 bits: two codes a byte
_BLOCK = 32  # codes that share a scale


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
    tensors = expand(adapter_tensors(content, title), {name: wanted.shape for name, wanted in inputs.items()}, title)
    check_fit(tensors, inputs, title)
    return tensors


def expand(stored: Mapping[str, NDArray[Any]], shapes: Mapping[str, Any], title: str) -> dict[str, NDArray[Any]]:
    """Return the optional inputs of the tower for an expert as its file stores it.

    stored: `<layer>.A_nibbles [rank, bytes]` with `<layer>.A_block_scales [rank, blocks]`, likewise B, and everything that is
    not in 4 bits.
    shapes: of the tower's optional inputs by name.
    title: what to call the file.

    Raises `ExpertError` where they do not fit each other.
    """
    kept = {name: value for name, value in stored.items() if not name.endswith((_INT4_SUFFIX, "_block_scales"))}
    for name in stored:
        layer, _, kind = name.rpartition(".")
        if kind != "A_nibbles":
            continue
        try:
            A, A_scales = _codes(stored[name], stored[f"{layer}.A_block_scales"], shapes[f"{layer}.A_codes"][0])
            B, B_scales = _codes(stored[f"{layer}.B_nibbles"], stored[f"{layer}.B_block_scales"], shapes[f"{layer}.B_codes"][1])
            scale = A_scales * B_scales * np.float32(LARGEST_CODE)
        except (KeyError, ValueError, TypeError, IndexError) as error:  # what is missing, or has other sides or dimensions
            raise ExpertError(f"{title}, {layer}: 4-bit codes do not fit the tower ({error}): export it again") from error
        kept |= {f"{layer}.A_codes": np.ascontiguousarray(A.T), f"{layer}.B_codes": B, f"{layer}.scale": scale}
    return kept


def _open(bundle: Bundle, task: Task) -> MappedFile:
    name = str(task.expert)
    return bundle.open_file(name, f"expert {task.name!r} in {bundle.file(name)}", ExpertError)


def _codes(packed: NDArray[np.uint8], scales: NDArray[Any], columns: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return 8-bit codes `[rank, columns]` and a scale for each row, of codes two a byte and a scale for each block."""
    blocks_of_row = -(-columns // _BLOCK)
    for array, kind, width in ((packed, np.uint8, blocks_of_row * _BLOCK // 2), (scales, np.float16, blocks_of_row)):
        if array.dtype != kind or array.shape != (len(packed), width):
            raise ValueError(f"{array.dtype} {list(array.shape)} instead of {np.dtype(kind)} {[len(packed), width]}")
    if not np.isfinite(scales).all():
        raise ValueError("a scale is not finite")
    codes = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.float32) - np.float32(8)  # [rank, bytes, 2]
    blocks = codes.reshape(len(packed), -1, _BLOCK) * scales.astype(np.float32)[:, :, None]
    values = blocks.reshape(len(packed), -1)[:, :columns]
    peaks = np.abs(values).max(axis=1)
    row_scales = np.where(peaks > 0, peaks / np.float32(LARGEST_CODE), np.float32(1)).astype(np.float32)
    return np.rint(values / row_scales[:, None]).astype(np.int8), row_scales
