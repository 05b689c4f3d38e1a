"""Experts stored in 4 bits, expanded when they are opened: codes in blocks become 8-bit codes with one scale a rank row.

A file of 4-bit codes is half as large to keep and to read; the graph multiplies 8-bit ones (docs/bundle-format.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.index import LARGEST_CODE
from mingle_edge_runtime.errors import ExpertError

Arrays = dict[str, NDArray[Any]]
INT4_SUFFIX = "_nibbles"
"""Ends the name of a parameter in 4 bits: two codes a byte."""
_BLOCK = 32  # codes that share a scale


def expand(stored: Mapping[str, NDArray[Any]], shapes: Mapping[str, Any]) -> Arrays:
    """Return the optional inputs of the tower for an expert as its file stores it.

    stored: `<layer>.A_nibbles [rank, bytes]` with `<layer>.A_block_scales [rank, blocks]`, likewise B, and everything that is
    not in 4 bits.
    shapes: of the tower's optional inputs by name.

    Raises `ExpertError` where they do not fit each other.
    """
    kept = {name: value for name, value in stored.items() if not name.endswith((INT4_SUFFIX, "_block_scales"))}
    for name in stored:
        layer, _, kind = name.rpartition(".")
        if kind != "A_nibbles":
            continue
        try:
            A, A_scales = _codes(stored[name], stored[f"{layer}.A_block_scales"], shapes[f"{layer}.A_codes"][0])
            B, B_scales = _codes(stored[f"{layer}.B_nibbles"], stored[f"{layer}.B_block_scales"], shapes[f"{layer}.B_codes"][1])
            scale = A_scales * B_scales * np.float32(LARGEST_CODE)
        except (KeyError, ValueError, TypeError, IndexError) as error:  # what is missing, or has other sides or dimensions
            raise ExpertError(f"{layer}: 4-bit codes do not fit the tower ({error}): export the bundle again") from error
        kept |= {f"{layer}.A_codes": np.ascontiguousarray(A.T), f"{layer}.B_codes": B, f"{layer}.scale": scale}
    return kept


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
