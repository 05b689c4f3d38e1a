"""Tensors as the protocol writes them: in JSON, or as bytes behind the JSON (the binary tensor data extension).

Little-endian, row after row. An element of BYTES is its length in four bytes, unsigned, and then itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_server.errors import RequestError

_MOST_SIDES = 8
_LENGTH = struct.Struct("<I")
_DATATYPES = {"bool": "BOOL", "float32": "FP32", "float64": "FP64", "object": "BYTES"}


def read_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Return the shape of an input. Raises `RequestError` for what is none."""
    sides = shape if isinstance(shape, list) and len(shape) <= _MOST_SIDES else [None]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 1 << 31 for side in sides):
        raise RequestError(f"input {name!r}: the shape must be a list of at most {_MOST_SIDES} whole numbers below 2^31")
    return tuple(sides)


def read_bytes_elements(name: str, content: memoryview, count: int) -> list[memoryview]:
    """Return the `count` elements of a BYTES tensor. Raises `RequestError` where there are more, fewer, or one is cut off."""
    elements, at = list[memoryview](), 0
    while at < len(content):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(content, at)[0] if start <= len(content) else len(content) + 1
        if at > len(content):
            raise RequestError(
                f"input {name!r}: element {len(elements)} is longer than its data; before each element stands its length, "
                "4 bytes, little-endian"
            )
        elements.append(content[start:at])
        if len(elements) > count:
            break
    if len(elements) != count:
        more = "more" if len(elements) > count else f"only {len(elements)}"
        raise RequestError(f"input {name!r}: its shape says {count} elements, and its data hold {more}")
    return elements


def read_pixels(name: str, content: memoryview, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a UINT8 tensor without a copy. Raises `RequestError` where shape and number of bytes differ."""
    if len(content) != math.prod(shape):
        raise RequestError(f"input {name!r}: shape {list(shape)} is {math.prod(shape)} bytes, and the data are {len(content)}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_json_pixels(name: str, data: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a UINT8 tensor of nested or flat lists. Raises `RequestError` for other values, or where the shape differs."""
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError):
        values = np.empty(0, np.object_)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise RequestError(f"input {name!r}: data of UINT8 must be numbers from 0 to 255, flat or nested as the shape says")
    if values.size != math.prod(shape) or (values.ndim > 1 and values.shape != shape):
        raise RequestError(f"input {name!r}: shape {list(shape)} is said, and the data are {list(values.shape)}")
    return values.astype(np.uint8).reshape(shape)


def datatype(values: NDArray[Any]) -> str:
    """Return the protocol's name of an output's type."""
    return _DATATYPES[values.dtype.name]


def to_bytes(values: NDArray[Any]) -> bytes:
    """Return an output as bytes."""
    if values.dtype == np.object_:
        return b"".join(_LENGTH.pack(len(text)) + text for text in (str(value).encode() for value in values.flat))
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(values: NDArray[Any]) -> list[Any]:
    """Return an output as a flat list; what is no number is null, which JSON can hold."""
    return list(_finite(values)) if values.dtype.kind == "f" else values.ravel().tolist()


def _finite(values: NDArray[Any]) -> Iterator[float | None]:
    for value in values.ravel().tolist():
        yield value if math.isfinite(value) else None
