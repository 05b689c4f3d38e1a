"""Experts as a device computes them: rounded to the codes of 8 or 4 bits that their file holds.

The twin, in torch, of the exporter's quantization and of the runtime's expansion (docs/bundle-format.md), so that an adaptation
sees the rounding that its result will meet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.expert_form import FormPrecision

BLOCK = 32
"""4-bit codes that share a scale."""
LARGEST_CODES = {"row": 64, "block": 7, "vector": 127}
"""Magnitude of the codes of a factor's row in 8 bits, of its block in 4, of a vector's difference. See `LARGEST_CODE` of the
bundle's index for the first."""


def rounded_expert(expert: CompleteExpert, backbone: Parameters, precision: FormPrecision) -> CompleteExpert:
    """Return an expert whose values are those that a device multiplies with.

    int8: every rank row of A `[r, d_in]` and B `[d_out, r]` in 8 bits with one scale. int4: in blocks of 4-bit codes, then as
    rows of 8-bit ones, which is what they are expanded to; vectors as 8-bit differences from the backbone's. Gradients pass as
    if nothing were rounded (straight-through estimator, arXiv 1308.3432).
    """
    if precision == "fp32":
        return expert
    rows = _rows if precision == "int8" else _expanded_blocks
    factors = {layer: (_straight_through(B.T, rows).T, _straight_through(A, rows)) for layer, (B, A) in expert.factors.items()}
    if precision == "int8":
        return CompleteExpert(factors, expert.unfactored)
    vectors = {
        name: backbone[name] + _straight_through(value - backbone[name], _difference)
        for name, value in expert.unfactored.items()
    }
    return CompleteExpert(factors, vectors)


def _straight_through(values: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Return rounded values through which gradients pass."""
    with torch.no_grad():
        error = rounding(values) - values
    return values + error


def _rows(values: Tensor) -> Tensor:
    codes, scales = _codes(values, LARGEST_CODES["row"])
    return codes * scales


def _expanded_blocks(values: Tensor) -> Tensor:
    """Round rows `[r, d]` to blocks of 4-bit codes with scales of float16, and these to 8-bit codes of rows."""
    rows, columns = values.shape
    padded = torch.nn.functional.pad(values, (0, -columns % BLOCK)).reshape(rows, -1, BLOCK)
    codes, scales = _codes(padded, LARGEST_CODES["block"])
    return _rows((codes * scales.half().float()).reshape(rows, -1)[:, :columns])


def _difference(values: Tensor) -> Tensor:
    """Round a vector, or the rows of a matrix, to codes of 8 bits."""
    codes, scales = _codes(values, LARGEST_CODES["vector"])
    return codes * scales


def _codes(values: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Return codes and the scales of the last axis, kept as 1; a group of zeros has the scale 1."""
    peaks = values.abs().amax(dim=-1, keepdim=True)
    scales = torch.where(peaks > 0, peaks / largest, torch.ones_like(peaks))
    return torch.round(values / scales), scales
