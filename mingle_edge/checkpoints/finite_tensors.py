"""Reading tensors of a checkpoint as float32, with values that are numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mingle_edge.checkpoints.stored_tensors import FLOATS, StoredTensors
from mingle_edge.core.errors import CheckpointError


def read_finite(path: Path, tensors: StoredTensors, key: str) -> Tensor:
    """Return a tensor as float32, in memory of its own.

    Raises:
        CheckpointError: naming the file and the tensor, which is not floating point, or holds NaN or infinite values.
    """
    if tensors.dtype(key) not in FLOATS:
        raise CheckpointError(f"{path}: {key} is {tensors.dtype(key)}, not floating point; use it before quantization")
    value = tensors.read(key).to(torch.float32, copy=True)  # a mapped file would else stay open
    if not value.isfinite().all():
        raise CheckpointError(f"{path}: {key} holds values that are NaN or infinite; use an undamaged checkpoint")
    return value
