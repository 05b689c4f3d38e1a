"""Codes of a few bits as the bytes they take, so that what a compressed model stores is counted and not estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class PackedCodes:
    """Whole numbers from 0 to `2^bits - 1`, `bits` of them a code, without gaps; the last byte is filled with zeros."""

    packed: NDArray[np.uint8]  # [ceil(codes bits / 8)]
    bits: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, codes: Tensor, bits: int) -> PackedCodes:
        """Pack the lowest `bits` of every entry of a tensor of any shape, at most 8."""
        numbers = codes.detach().to("cpu", torch.uint8).numpy().reshape(-1, 1)
        single = np.unpackbits(numbers, axis=1, count=bits, bitorder="little")  # [codes, bits]
        return cls(np.packbits(single), bits, tuple(codes.shape))

    def codes(self, device: torch.device) -> Tensor:
        """Return the codes as uint8, in the shape they had."""
        single = np.unpackbits(self.packed, count=math.prod(self.shape) * self.bits).reshape(-1, self.bits)
        numbers = np.packbits(single, axis=1, bitorder="little")  # [codes, 1]
        return torch.from_numpy(numbers.reshape(self.shape)).to(device)

    @property
    def nbytes(self) -> int:
        """Return the bytes that the codes take."""
        return self.packed.nbytes
