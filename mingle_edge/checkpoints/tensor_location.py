"""Where the values of one tensor lie in a file, and reading them from there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge.files.plain_file import refusal


@dataclass(frozen=True)
class TensorLocation:
    """One tensor in a file. Values are read rather than mapped: a map that stays open keeps every page ever read in memory."""

    path: Path
    start: int  # bytes from the beginning of the file to the first element
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements
    dtype: str  # as torch spells it where torch has it

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the tensor, or some of its rows, as stored. `name` is for messages.

        Raises:
            CheckpointError: fewer values are stored than the shape says, or the file cannot be read.
        """
        dtype: torch.dtype = getattr(torch, self.dtype)
        start, shape = self.start, self.shape
        if rows is not None:
            start += rows.start * self.strides[0] * dtype.itemsize
            shape = (rows.stop - rows.start, *shape[1:])
        elements = span(shape, self.strides)
        if math.prod(shape) > elements:  # or a few bytes could ask for all memory
            raise CheckpointError(
                f"{self.path}: {shown(name)} is {list(self.shape)}, and fewer values are stored; save a copy of it: "
                "tensor.contiguous()"
            )
        try:
            content = torch.empty(elements * dtype.itemsize, dtype=torch.uint8)
            with self.path.open("rb") as file:
                file.seek(start)
                complete = file.readinto(memoryview(content.numpy())) == len(content)  # type: ignore[arg-type]
        except OSError as error:
            raise CheckpointError(f"{self.path} {refusal(error)}") from error
        except (RuntimeError, MemoryError) as error:  # what torch raises where there is not enough memory
            raise CheckpointError(f"{self.path}: cannot read {shown(name)} ({error}); free some memory") from error
        if not complete:
            raise CheckpointError(f"{self.path}: ends within {shown(name)}, and did not before; copy the file again")
        return content.view(dtype).as_strided(shape, self.strides)


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many elements lie from the first to the last of a tensor, both counted."""
    return 0 if 0 in shape else 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor whose rows lie one after the other."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
