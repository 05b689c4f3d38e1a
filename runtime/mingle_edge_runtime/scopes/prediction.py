"""From an embedding to labels: cosines with class embeddings, in the three ways an application may ask.

With the task or the head given, its labels compete in one softmax. With nothing given, the labels of all tasks compete: each
task's softmax weighted by the router's posterior, or, where there is none to trust, one softmax over all labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.npy_file import NpyError, read_npy
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.scopes.route import Route

Head = NDArray[np.float32]
"""Class embeddings `[labels, dim]` of unit length."""
_LARGEST_HEADER = 64 << 10  # bytes, far more than that of any array
UNIT = 1e-3
"""How far from 1 the length of a class embedding may be."""


@dataclass(frozen=True)
class Prediction:
    """The most probable labels of one image, best first."""

    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    """the task each label belongs to"""
    probabilities: tuple[float, ...]
    """of each label among all that competed"""
    route: Route
    """the experts that ran"""


def read_heads(bundle: Bundle) -> dict[str, Head]:
    """Read the heads of all tasks.

    Raises `BundleError` naming a file that is no float32 array of the right shape, or a row that is not of unit length, one
    with a NaN included.
    """
    heads = {}
    for task in bundle.index.tasks:
        path = bundle.file(task.head)
        wanted = (len(task.labels), bundle.index.architecture.output_dim)
        try:
            head = read_npy(bundle.read(task.head, 4 * math.prod(wanted) + _LARGEST_HEADER))
        except NpyError as error:
            raise BundleError(f"{path} cannot be read as an array without pickle: {error}; export the bundle again") from error
        if head.dtype != np.float32 or head.shape != wanted:
            raise BundleError(f"{path} must be a float32 array {list(wanted)}: export the bundle again")
        lengths = np.linalg.norm(head.astype(np.float64), axis=1)
        wrong = ~(np.abs(lengths - 1) <= UNIT)  # so that NaN is wrong
        if wrong.any():
            row = int(wrong.argmax())
            raise BundleError(
                f"{path}, the head of task {task.name!r}: the row of label {task.labels[row]!r} has length {lengths[row]:.4g}, "
                f"must be 1 within {UNIT:g}: export the bundle again"
            )
        heads[task.name] = head
    return heads


def predict(
    embed: NDArray[np.float32],
    route: Route,
    heads: Mapping[str, Head],
    labels: Mapping[str, Sequence[str]],
    logit_scale: float,
    top: int,
) -> Prediction:
    """Return the `top` labels of one embedding `[dim]` among those of `heads`.

    heads: the tasks that compete, in the order of `route.posterior` where they are all of the bundle's.

    Raises `BundleError` where a probability is no number.
    """
    probabilities = label_probabilities(embed, route, heads, logit_scale)
    if not np.isfinite(probabilities).all():
        raise BundleError("the bundle computes probabilities that are no numbers: its router or a weight is damaged, verify it")
    names = [(task, label) for task in heads for label in labels[task]]
    best = np.argsort(-probabilities, kind="stable")[:top]
    tasks, chosen = zip(*(names[i] for i in best), strict=True)
    return Prediction(chosen, tasks, tuple(probabilities[best].tolist()), route)


def label_probabilities(
    embed: NDArray[np.float32], route: Route, heads: Mapping[str, Head], logit_scale: float
) -> NDArray[np.float64]:
    """Return the probability of every label `[labels]` of `heads`, head after head; arguments as in `predict`."""
    scores = [logit_scale * (head @ embed).astype(np.float64) for head in heads.values()]
    if len(scores) > 1 and route.tasks and route.posterior:
        return np.concatenate([p * _softmax(score) for p, score in zip(route.posterior, scores, strict=True)])
    return _softmax(np.concatenate(scores))


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(scores - scores.max())
    probabilities: NDArray[np.float64] = shifted / shifted.sum()
    return probabilities
