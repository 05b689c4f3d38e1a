"""Weights in few bits, in numpy: codes and scales whose product is nearest to the weights (round to nearest, symmetric)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_export.graph.builder import Array
from mingle_edge_runtime.bundle.index import LARGEST_CODE

BLOCK = 32  # 4-bit codes that share a scale: the one block size every MatMulNBits and GatherBlockQuantized kernel has
CODE_UNIT = np.float32(1 / LARGEST_CODE)
"""What a code of an expert's B stands for in int8: the scales of its rank rows are multiplied into those of A."""
_LARGEST = {8: LARGEST_CODE, 4: 7}  # codes are symmetric: the smallest one of two's complement is not used
_LARGEST_CHANGE = 127  # nothing is multiplied by the codes of a vector's change, which may use all of a byte

Codes = NDArray[np.int8]


def quantize(weights: Array, axis: int, bits: int = 8) -> tuple[Codes, Array]:
    """Round weights to int8 codes and float32 scales, one scale for all weights that differ along `axis` alone (kept as 1).

    Codes reach 7 (4 bits) or `LARGEST_CODE`. weights = codes * scales to within half a scale; a group of zeros has the scale 1.
    """
    return _rounded(weights, axis, _LARGEST[bits])


def quantize_pair(A: Array, B: Array) -> tuple[Codes, Codes, Array]:
    """Round an expert's `A [rank, d_in]` and `B [rank, d_out]` to codes `[d_in, rank]`, `[rank, d_out]` and scales `[rank]`.

    Every rank row has one scale of A times one of B, in units of `CODE_UNIT`; the graph applies it between the two products.
    """
    (A_codes, A_scales), (B_codes, B_scales) = quantize(A, axis=1), quantize(B, axis=1)
    return A_codes.T, B_codes, (A_scales * B_scales)[:, 0] / CODE_UNIT


def quantize_blocks(rows: Array, bits: int) -> tuple[Codes, Array]:
    """Round rows `[n, d]` to codes `[n, blocks * 32]` and scales `[n, blocks]`, one for 32 values; zeros fill up d."""
    n, d = rows.shape
    padded = np.pad(rows, ((0, 0), (0, -d % BLOCK))).reshape(n, -1, BLOCK)
    codes, scales = quantize(padded, axis=2, bits=bits)
    return codes.reshape(n, -1), scales[:, :, 0]


def quantize_change(vector: Array, default: Array) -> tuple[Codes, Array]:
    """Round what a vector `[d]`, or a matrix `[rows, d]`, differs from the backbone's by to int8 codes and scales `[rows]`.

    Codes have the shape of the vector and reach 127; vector = default + scale * codes to within half a scale.
    """
    rows = (vector - default).reshape(-1, vector.shape[-1])
    codes, scales = _rounded(rows, 1, _LARGEST_CHANGE)
    return codes.reshape(vector.shape), scales[:, 0]


def _rounded(weights: Array, axis: int, largest: int) -> tuple[Codes, Array]:
    peaks = np.abs(weights).max(axis=axis, keepdims=True)
    scales = np.where(peaks > 0, peaks / np.float32(largest), np.float32(1)).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def pack_int4(codes: Codes) -> NDArray[np.uint8]:
    """Pack two 4-bit codes a byte along the last axis, the first in the low half, each as code + 8.

    That is how the operators MatMulNBits and GatherBlockQuantized of ONNX Runtime read them.
    """
    shifted = (codes + 8).astype(np.uint8)
    packed: NDArray[Any] = shifted[..., 0::2] | (shifted[..., 1::2] << 4)
    return packed
