"""How one parameter of the internal naming lies in a tensor of a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mingle_edge.checkpoints.stored_tensors import StoredTensors


@dataclass(frozen=True)
class Piece:
    """An internal parameter and where its values are."""

    name: str  # internal
    key: str  # in the file
    third: int | None = None  # of the rows, where q, k and v are stored as one tensor
    layout: Literal["same", "transposed", "flattened"] = "same"  # flattened: a convolution's weight [width, 3, p, p]

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the internal parameter, from that of the stored tensor; `stored` itself where the layout cannot apply."""
        if self.third is not None and stored and stored[0] % 3 == 0:
            return (stored[0] // 3, *stored[1:])
        if self.layout == "transposed" and len(stored) == 2:
            return (stored[1], stored[0])
        if self.layout == "flattened" and len(stored) == 4 and stored[1] == 3:
            return (stored[0], math.prod(stored[1:]))
        return stored

    def read(self, tensors: StoredTensors) -> Tensor:
        """The internal parameter as float32, contiguous, in memory of its own."""
        rows = None
        if self.third is not None:
            step = tensors.shape(self.key)[0] // 3
            rows = slice(self.third * step, (self.third + 1) * step)
        tensor = tensors.read(self.key, rows)
        if self.layout == "transposed":
            tensor = tensor.T
        elif self.layout == "flattened":
            tensor = tensor.flatten(1)  # [width, 3 p p]
        # The copy keeps no map of the file alive, and contiguous_format undoes the strides of a transpose.
        return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
