"""One expert of the image scope: an adapter file in ONNX Runtime's own format (`onnxruntime.AdapterFormat`).

Experts stored in 4 bits are expanded when they are opened: codes in blocks become 8-bit codes with one scale a rank row, and
8-bit differences of vectors become vectors. Such a file is half as large to keep and to read; the graph multiplies 8-bit codes
(docs/bundle-format.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.index import LARGEST_CODE, BundleIndex, Task
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.errors import ExpertError
from mingle_edge_runtime.experts.adapter_tensors import adapter_tensors, check_fit
from mingle_edge_runtime.ort.session import OptionalInput, onnxruntime, printable

_KINDS = ("A_nibbles", "A_block_scales", "B_nibbles", "B_block_scales", "change_codes", "change_scale")
_ARCHIVED = tuple(f".{kind}" for kind in _KINDS)
"""Ends of the names of what is stored in few bits and not read by the tower."""
_BLOCK = 32  # codes that share a scale
_BYTES = np.arange(256)
_TWO_CODES = np.stack([(_BYTES & 15) - 8, (_BYTES >> 4) - 8], axis=1).astype(np.float32).view(np.float64)[:, 0]
"""The two codes of each byte as two float32 side by side: one look-up of 8 bytes is twice as fast as taking bits apart."""


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


def resident_bytes(index: BundleIndex, task: Task) -> int:
    """Return the bytes that a task's expert takes in memory at most: those of its file, or of what that is expanded to."""
    if not index.expands(task):
        return task.expert_bytes
    # A code of 4 bits becomes one of 8, and one of 8 bits of a vector's change becomes a float of 4 bytes.
    vectors = sum(math.prod(tensor.shape) for tensor in index.defaults.tensors.values()) if index.defaults else 0
    return 2 * task.expert_bytes + 2 * vectors


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
    """Return the parameters of a task's adapter by name, in the host's memory, an expert stored in 4 bits expanded.

    inputs: the tower's optional ones.

    Raises `ExpertError` naming the task.
    """
    file = _open(bundle, task)
    defaults = bundle.read_defaults() if bundle.index.expands(task) else {}
    return adapter_values(file.read(0, file.size), inputs, defaults, file.name)


def adapter_values(
    content: NDArray[np.uint8], inputs: Mapping[str, OptionalInput], defaults: Mapping[str, NDArray[Any]], title: str
) -> dict[str, NDArray[Any]]:
    """Return the parameters in the bytes of an adapter file by name, an expert stored in 4 bits expanded.

    inputs: the tower's optional ones.
    defaults: the backbone's vectors, which such an expert changes.
    title: what to call the file.

    Raises `ExpertError`.
    """
    shapes = {name: wanted.shape for name, wanted in inputs.items()}
    tensors = expand(adapter_tensors(content, title), shapes, defaults, title)
    check_fit(tensors, inputs, title)
    return tensors


def expand(
    stored: Mapping[str, NDArray[Any]], shapes: Mapping[str, Any], defaults: Mapping[str, NDArray[Any]], title: str
) -> dict[str, NDArray[Any]]:
    """Return the optional inputs of the tower for an expert as its file stores it.

    stored: `<layer>.A_nibbles [rank, bytes]` with `<layer>.A_block_scales [rank, blocks]`, likewise B; `<vector>.change_codes`
    with `<vector>.change_scale [rows]`; and everything that is stored as the tower takes it.
    shapes: of the tower's optional inputs by name.
    defaults: the backbone's vectors.
    title: what to call the file.

    Raises `ExpertError` where they do not fit each other.
    """
    kept = {name: value for name, value in stored.items() if not name.endswith(_ARCHIVED)}
    if len(kept) == len(stored):
        return kept
    expanded: dict[str, NDArray[Any]] = {}
    for owner, kinds in _by_owner(stored).items():
        try:
            if "change_codes" in kinds or "change_scale" in kinds:
                expanded[owner] = _changed(kinds.pop("change_codes"), kinds.pop("change_scale"), defaults[owner])
            if kinds:
                A, A_scales = _codes(kinds.pop("A_nibbles"), kinds.pop("A_block_scales"), shapes[f"{owner}.A_codes"][0])
                B, B_scales = _codes(kinds.pop("B_nibbles"), kinds.pop("B_block_scales"), shapes[f"{owner}.B_codes"][1])
                scale = A_scales * B_scales * np.float32(LARGEST_CODE)
                values = (np.ascontiguousarray(A.T), B, scale)
                expanded |= zip((f"{owner}.A_codes", f"{owner}.B_codes", f"{owner}.scale"), values, strict=True)
        except (KeyError, ValueError, TypeError, IndexError) as error:  # what is missing, or has other sides or dimensions
            raise ExpertError(
                f"{title}, {owner}: what is in few bits does not fit the tower ({error}): export it again"
            ) from error
    if twice := sorted(kept.keys() & expanded.keys()):
        raise ExpertError(f"{title} holds {twice[0]} twice, in two forms: export it again")
    return kept | expanded


def _open(bundle: Bundle, task: Task) -> MappedFile:
    name = str(task.expert)
    return bundle.open_file(name, f"expert {task.name!r} in {bundle.file(name)}", ExpertError)


def _by_owner(stored: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """Return what is stored in few bits, by the layer or the vector that it is of."""
    owners: dict[str, dict[str, NDArray[Any]]] = {}
    for name, value in stored.items():
        owner, _, kind = name.rpartition(".")
        if kind in _KINDS:
            owners.setdefault(owner, {})[kind] = value
    return owners


def _codes(packed: NDArray[np.uint8], scales: NDArray[Any], columns: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return 8-bit codes `[rank, columns]` and a scale for each row, of codes two a byte and a scale for each block."""
    rank, blocks = len(packed), -(-columns // _BLOCK)
    _check(packed, np.uint8, (rank, blocks * _BLOCK // 2))
    _check(scales, np.float16, (rank, blocks))
    values = np.take(_TWO_CODES, packed).view(np.float32).reshape(-1, _BLOCK)
    values *= scales.astype(np.float32).reshape(-1, 1)
    values = values.reshape(rank, -1)[:, :columns]
    peaks = np.maximum(values.max(axis=1), -values.min(axis=1))
    row_scales = np.where(peaks > 0, peaks / np.float32(LARGEST_CODE), np.float32(1)).astype(np.float32)
    values /= row_scales[:, None]
    return np.rint(values, out=values).astype(np.int8), row_scales


def _changed(codes: NDArray[np.int8], scale: NDArray[np.float32], default: NDArray[Any]) -> NDArray[np.float32]:
    """Return a vector, or a matrix of rows, of its difference from the backbone's in 8 bits with a scale for each row."""
    rows = default.reshape(-1, default.shape[-1])
    _check(codes, np.int8, default.shape)
    _check(scale, np.float32, rows.shape[:1])
    with np.errstate(over="ignore"):  # what is beyond float32 then is not finite
        changed: NDArray[np.float32] = rows + scale[:, None] * codes.reshape(rows.shape)
    if not np.isfinite(changed).all():
        raise ValueError("a value is not finite")
    return changed.reshape(default.shape)


def _check(array: NDArray[Any], kind: type, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` where an array is of another type or shape, or holds a number that is not finite."""
    if array.dtype != kind or array.shape != shape:
        raise ValueError(f"{array.dtype} {list(array.shape)} instead of {np.dtype(kind)} {list(shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("a scale is not finite")
