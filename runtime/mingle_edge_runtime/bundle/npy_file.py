"""Arrays in numpy's own file format, from files that may be anything: their headers are believed only where the size agrees."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class NpyError(ValueError):
    """Not a .npy file, or one whose header does not fit its size."""


def read_npy(content: bytes) -> NDArray[Any]:
    """Return the array in the bytes of a .npy file, a read-only view of them.

    Raises `NpyError`; nothing is unpickled and no memory taken for what a header claims.
    """
    stream = io.BytesIO(content)
    try:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, by_columns, kind = readers[npy.read_magic(stream)](stream)
    except Exception as error:  # numpy parses the header as Python, whose parser raises errors of many types
        raise NpyError(f"it has no header of numpy's: {type(error).__name__}") from error
    if kind.hasobject:
        raise NpyError("it holds pickled objects")
    start = stream.tell()
    count = math.prod(shape)
    if min(shape, default=0) < 0 or len(shape) > _DIMENSIONS or count * kind.itemsize != len(content) - start:
        raise NpyError(f"its header claims {kind} {list(shape)[:_DIMENSIONS]}, of another size than it has")
    try:
        array: NDArray[Any] = np.frombuffer(content, kind, count, start)
        return array.reshape(shape, order="F" if by_columns else "C")
    except (ValueError, OverflowError, TypeError) as error:  # sides that are large beside one of zero, types of no size
        raise NpyError(f"it holds no array: {error}") from error


_DIMENSIONS = 16
"""more than any array here has"""
