"""The head of a task: a linear layer from an image's embedding to a logit for each of the task's labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.npy_file import NpyError, read_npy
from mingle_edge_runtime.errors import BundleError

LARGEST = 1e6
"""Magnitude of a value of a head; no trained one comes near it, and products of such values are finite in float32."""
_LARGEST_HEADER = 64 << 10  # bytes, far more than that of any array


@dataclass(frozen=True)
class Head:
    """A linear layer. Class embeddings of unit length with CLIP's logit scale make it zero-shot."""

    weight: NDArray[np.float32]
    """`[labels, dim]`"""
    bias: NDArray[np.float32] | None
    """`[labels]`; None: zeros"""
    logit_scale: float
    """multiplier of `weight @ embed`"""

    def logits(self, embed: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the logits `[labels]` of one embedding `[dim]`."""
        logits: NDArray[np.float64] = self.logit_scale * (self.weight @ embed).astype(np.float64)
        return logits if self.bias is None else logits + self.bias


def read_heads(bundle: Bundle) -> dict[str, Head]:
    """Read the heads of all tasks.

    Raises `BundleError` naming a file that is no float32 array of the right shape, or the label of a value that is not finite
    or beyond `LARGEST`.
    """
    heads = {}
    for task in bundle.index.tasks:
        count = len(task.labels)
        weight = _read(bundle, task.name, task.labels, task.head, (count, bundle.index.architecture.output_dim))
        bias = None if task.bias is None else _read(bundle, task.name, task.labels, task.bias, (count,))
        heads[task.name] = Head(weight, bias, task.logit_scale)
    return heads


def _read(bundle: Bundle, task: str, labels: tuple[str, ...], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    path = bundle.file(name)
    try:
        array = read_npy(bundle.read(name, 4 * math.prod(shape) + _LARGEST_HEADER))
    except NpyError as error:
        raise BundleError(f"{path} cannot be read as an array without pickle: {error}; export the bundle again") from error
    if array.dtype != np.float32 or array.shape != shape:
        raise BundleError(f"{path} must be a float32 array {list(shape)}: export the bundle again")
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(array) <= LARGEST).reshape(len(labels), -1).all(1)  # so that NaN is wrong
    if wrong.any():
        label = labels[int(wrong.argmax())]
        raise BundleError(
            f"{path}, of the head of task {task!r}: a value of label {label!r} is not finite, or beyond {LARGEST:g}: export "
            "the bundle again"
        )
    return array
