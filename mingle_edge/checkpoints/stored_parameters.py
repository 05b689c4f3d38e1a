"""Internal parameters as functions of the tensors in a file: what every naming and all folding is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mingle_edge.checkpoints.stored_tensors import StoredTensors
from mingle_edge.core.errors import CheckpointError

UNUSED = "unused."
"""How names begin that tensors have in place of internal ones which belong to a tower and to none of its outputs."""


def same(tensor: Tensor) -> Tensor:
    """Return a tensor as it is stored."""
    return tensor


def transposed(tensor: Tensor) -> Tensor:
    """Return the weight of a linear layer `[d_out, d_in]` that is stored as `[d_in, d_out]`."""
    return tensor.T if tensor.ndim == 2 else tensor


def flattened(tensor: Tensor) -> Tensor:
    """Return a convolution's weight `[width, 3, p, p]` as that of a linear layer, `[width, 3 p p]`."""
    return tensor.flatten(1) if tensor.ndim == 4 and tensor.shape[1] == 3 else tensor


def one_token(tensor: Tensor) -> Tensor:
    """Return a token `[width]` that is stored for a batch, `[1, 1, width]`."""
    return tensor.flatten() if tensor.shape[:-1] == (1, 1) else tensor


def tokens(tensor: Tensor) -> Tensor:
    """Return tokens `[n, width]` that are stored for a batch, `[1, n, width]`."""
    return tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor


@dataclass(frozen=True)
class Source:
    """A tensor in a file, or one of several equal parts of its rows."""

    key: str
    part: int = 0
    parts: int = 1

    def shape(self, tensors: StoredTensors) -> tuple[int, ...]:
        """Return its shape; that of the whole tensor where its rows cannot be divided."""
        stored = tensors.shape(self.key)
        return (stored[0] // self.parts, *stored[1:]) if stored and stored[0] % self.parts == 0 else stored

    def read(self, tensors: StoredTensors) -> Tensor:
        """Read it as float32; of a part no more than its rows. Raises `CheckpointError` where the file cannot be read."""
        rows = None
        if self.parts > 1:
            step = tensors.shape(self.key)[0] // self.parts
            rows = slice(self.part * step, (self.part + 1) * step)
        return tensors.read(self.key, rows).detach().float()


@dataclass(frozen=True)
class StoredParameter:
    """An internal parameter and how it is made of tensors in a file; of none where the model has no such parameter."""

    name: str  # internal
    sources: tuple[Source, ...]
    function: Callable[..., Tensor] = same

    @classmethod
    def of(cls, name: str, key: str, function: Callable[..., Tensor] = same) -> StoredParameter:
        """Return a parameter that is a function of one tensor."""
        return cls(name, (Source(key),), function)

    @property
    def key(self) -> str:
        """Return the name in the file of the first tensor it is made of, which is the only one before folding."""
        return self.sources[0].key

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the names in the file of what it is made of."""
        return tuple(dict.fromkeys(source.key for source in self.sources))

    def shape(self, tensors: StoredTensors) -> tuple[int, ...]:
        """Return the shape of the internal parameter, found without reading values.

        Raises:
            CheckpointError: tensors that do not fit one another.
        """
        stored = [source.shape(tensors) for source in self.sources]
        try:
            return tuple(self.function(*(torch.empty(shape, device="meta") for shape in stored)).shape)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            listed = ", ".join(f"{source.key} {list(shape)}" for source, shape in zip(self.sources, stored, strict=True))
            raise CheckpointError(
                f"{tensors.files[0]}: {self.name} cannot be made of {listed}; use an undamaged checkpoint"
            ) from error

    def read(self, tensors: StoredTensors) -> Tensor:
        """Return the internal parameter as float32, contiguous, in memory of its own."""
        value = self.function(*(source.read(tensors) for source in self.sources))
        # The copy keeps no larger tensor alive, and contiguous_format undoes the strides of a transpose.
        return value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def thirds(layer: str, kind: str, key: str) -> list[StoredParameter]:
    """Return weights or biases of q, k and v of a layer that are stored as one tensor, one below the other."""
    return [StoredParameter(f"{layer}.{part}.{kind}", (Source(key, i, 3),)) for i, part in enumerate("qkv")]


def combined(name: str, function: Callable[..., Tensor], *parts: StoredParameter) -> StoredParameter:
    """Return a parameter that is a function of others."""

    def of_sources(*tensors: Tensor) -> Tensor:
        rest: Iterator[Any] = iter(tensors)
        return function(*(part.function(*islice(rest, len(part.sources))) for part in parts))

    return StoredParameter(name, tuple(source for part in parts for source in part.sources), of_sources)
