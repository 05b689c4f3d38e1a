"""What a safetensors file holds, from its header. The library checks the header first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mingle_edge.checkpoints.tensor_location import TensorLocation, contiguous
from mingle_edge.core.errors import CheckpointError
from mingle_edge.files.plain_file import check_plain_file

MOST_HEADER = 16 << 20
"""Bytes of a header; that of a CLIP model has about 50 thousand."""

_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTH = 8  # bytes before the header, its own length in little endian


def is_safetensors(beginning: bytes, size: int) -> bool:
    """Say whether a file of `size` bytes that begins with these is one: the length of a header, and the header's brace."""
    length = int.from_bytes(beginning[:_LENGTH], "little")
    return beginning[_LENGTH : _LENGTH + 1] == b"{" and 0 < length <= size - _LENGTH


def read_safetensors_header(path: Path) -> dict[str, TensorLocation]:
    """Find where each tensor is, by name in alphabetical order.

    Raises:
        CheckpointError: the header is too long, or the file is damaged or none.
        PermissionError: it may not be read.
    """
    size = check_plain_file(path).st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if MOST_HEADER < length <= size:
            raise CheckpointError(f"{path} has a header of {length} bytes, and at most {MOST_HEADER} are read; save it again")
        try:
            with safe_open(path, framework="pt"):
                header: dict[str, Any] = json.loads(file.read(length))
            return {name: _location(path, _LENGTH + length, header[name]) for name in sorted(header.keys() - {"__metadata__"})}
        except PermissionError:
            raise
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError, MemoryError) as error:
            raise CheckpointError(
                f"{path} is damaged or not a safetensors file ({error}); copy or download it again"
            ) from error


def _location(path: Path, values: int, record: dict[str, Any]) -> TensorLocation:
    shape, dtype = tuple(record["shape"]), record["dtype"]
    return TensorLocation(path, values + record["data_offsets"][0], shape, contiguous(shape), _TYPES.get(dtype, dtype))
