"""The tensors of an adapter file, read from the flatbuffer itself and believed only where they fit the file and the tower.

ONNX Runtime 1.20 takes the shapes in such a file for granted and reads past its end where they are too large. The schema
(onnxruntime/lora/adapter_format): Adapter { format_version, adapter_version, model_version, parameters }, Parameter { name,
dims: [int64], data_type: int32, raw_data: [uint8] }; field i lies at entry 4 + 2 i of a table's vtable, and offsets are
relative to where they stand (https://flatbuffers.dev/internals).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.errors import ExpertError
from mingle_edge_runtime.ort.session import OptionalInput

_IDENTIFIER = b"TORT"
# of onnx.TensorProto.DataType: those that bundles hold
_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    7: np.dtype("<i8"),
    10: np.dtype("<f2"),
}
_MOST_DIMENSIONS = 8
_FACTORS = ("A", "B", "A_codes", "B_codes", "scale")
_ALIGNMENT = 4  # bytes: of everything that follows its length in a flatbuffer
_U16, _I32, _U32 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")


def adapter_tensors(content: NDArray[np.uint8], title: str) -> dict[str, NDArray[Any]]:
    """Return views of `content`, the bytes of an adapter file, by name.

    title: what to call the file.

    Raises `ExpertError` where this is no adapter, or a tensor has not the bytes that its type and shape ask for.
    """
    try:
        return _read(content.data)
    except (struct.error, IndexError) as error:
        raise ExpertError(f"{title} cannot be read as an adapter: copy or export it again") from error
    except _MisfitError as error:
        raise ExpertError(f"{title} cannot be read: {error}; copy or export it again") from error


def check_fit(tensors: Mapping[str, NDArray[Any]], inputs: Mapping[str, OptionalInput], title: str) -> None:
    """Raise `ExpertError` unless these are optional inputs of the tower, of its types and shapes, and a layer is whole."""
    sides: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name not in inputs:
            raise ExpertError(f"{title} holds {name!r}, which is no input of the tower: export the bundle again")
        wanted = inputs[name]
        fits = tensor.dtype == wanted.dtype and tensor.ndim == len(wanted.shape)
        for side, size in zip(wanted.shape, tensor.shape, strict=False):
            fits = fits and size == (sides.setdefault(side, size) if isinstance(side, str) else size if side is None else side)
        if not fits:
            raise ExpertError(
                f"{title} holds {name!r} {tensor.dtype} {list(tensor.shape)}, the tower takes {wanted.dtype} "
                f"{list(wanted.shape)}{_known(wanted, sides)}: export the bundle again"
            )
    layers = {name.rpartition(".")[0] for name in tensors if _is_factor(name)}
    missing = sorted(name for name in inputs.keys() - tensors.keys() if _is_factor(name) and name.rpartition(".")[0] in layers)
    if missing:
        raise ExpertError(f"{title} lacks {missing[0]}, without which the layer's others mean nothing: export the bundle again")


def _is_factor(name: str) -> bool:
    return name.rpartition(".")[2] in _FACTORS


def _known(wanted: OptionalInput, sides: Mapping[str, int]) -> str:
    known = [f"{side} is {sides[side]}" for side in wanted.shape if isinstance(side, str) and side in sides]
    return f", where {', '.join(known)}" if known else ""


class _MisfitError(Exception):
    """A tensor that is not what its own record says."""


def _read(content: memoryview) -> dict[str, NDArray[Any]]:
    """Return the tensors by name. Raises `_MisfitError` naming one, or an error of reading beyond the end."""
    if bytes(content[4:8]) != _IDENTIFIER:
        raise IndexError("no adapter")
    *_, parameters = _fields(content, _offset(content, 0), 4)
    start, count = _vector(content, parameters)
    if start + 4 * count > len(content):
        raise IndexError("a vector ends beyond the file")
    tensors: dict[str, NDArray[Any]] = {}
    for number in range(count):
        shown = f"tensor {number}"
        try:
            field, *rest = _fields(content, _offset(content, start + 4 * number), 4)
            at, size = _vector(content, field)
            name = str(content[at : at + size], "utf-8")
            shown = ascii(name)
            if at + size > len(content) or name in tensors:
                raise _MisfitError(f"{shown} is cut off, or there twice")
            tensors[name] = _tensor(content, shown, *rest)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise _MisfitError(f"{shown} of {count} is damaged") from error
    return tensors


def _tensor(content: memoryview, shown: str, dims: int, data_type: int, raw_data: int) -> NDArray[Any]:
    """Return the tensor whose fields lie there."""
    number = _I32.unpack_from(content, data_type)[0] if data_type else 0
    if number not in _TYPES:
        raise _MisfitError(f"{shown} is of type {number}, which no bundle holds")
    kind = _TYPES[number]
    start, count = _vector(content, dims)
    if count > _MOST_DIMENSIONS:
        raise _MisfitError(f"{shown} has {count} dimensions")
    shape = struct.unpack_from(f"<{count}q", content, start)
    start, size = _vector(content, raw_data)
    if start + size > len(content):
        raise _MisfitError(f"{shown} ends at byte {start + size} of {len(content)}")
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != size:
        raise _MisfitError(f"{shown} has {size} bytes, {list(shape)} of {kind} is another number")
    if start % min(kind.itemsize, _ALIGNMENT):
        raise _MisfitError(f"{shown} lies at byte {start}, no multiple of {min(kind.itemsize, _ALIGNMENT)}")
    try:
        array: NDArray[Any] = np.frombuffer(content, kind, math.prod(shape), start).reshape(shape)
    except (ValueError, OverflowError) as error:  # sides that are large beside one of zero
        raise _MisfitError(f"{shown} cannot have the shape {list(shape)}") from error
    return array


def _fields(content: memoryview, table: int, count: int) -> list[int]:
    """Return where the first `count` fields of a table lie; 0 where one is absent."""
    vtable = table - _I32.unpack_from(content, table)[0]
    if vtable < 0:
        raise IndexError("a vtable before the file")
    present = min(max(_U16.unpack_from(content, vtable)[0] // 2 - 2, 0), count)
    offsets = struct.unpack_from(f"<{present}H", content, vtable + 4)
    return [table + offset if offset else 0 for offset in (*offsets, *[0] * (count - present))]


def _offset(content: memoryview, at: int) -> int:
    return at + int(_U32.unpack_from(content, at)[0])


def _vector(content: memoryview, field: int) -> tuple[int, int]:
    """Return first element and number of elements of the vector that a field refers to, which must be there."""
    if not field:
        raise IndexError("a field is missing")
    at = _offset(content, field)
    return at + 4, int(_U32.unpack_from(content, at)[0])
