"""From an embedding to labels: the logits of heads, in the three ways an application may ask.

With the task or the head given, its labels compete in one softmax. With nothing given, the labels of all tasks compete: each
task's softmax weighted by the router's posterior, or, where there is none to trust, one softmax over all labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.head import Head
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.scopes.route import Route


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


def predict(
    embed: NDArray[np.float32],
    route: Route,
    heads: Mapping[str, Head],
    labels: Mapping[str, Sequence[str]],
    top: int,
) -> Prediction:
    """Return the `top` labels of one embedding `[dim]` among those of `heads`.

    heads: the tasks that compete, in the order of `route.posterior` where they are all of the bundle's.

    Raises `BundleError` where a probability is no number.
    """
    probabilities = label_probabilities(embed, route, heads)
    if not np.isfinite(probabilities).all():
        raise BundleError("the bundle computes probabilities that are no numbers: its router or a weight is damaged, verify it")
    names = [(task, label) for task in heads for label in labels[task]]
    best = np.argsort(-probabilities, kind="stable")[:top]
    tasks, chosen = zip(*(names[i] for i in best), strict=True)
    return Prediction(chosen, tasks, tuple(probabilities[best].tolist()), route)


def label_probabilities(embed: NDArray[np.float32], route: Route, heads: Mapping[str, Head]) -> NDArray[np.float64]:
    """Return the probability of every label `[labels]` of `heads`, head after head; arguments as in `predict`."""
    scores = [head.logits(embed) for head in heads.values()]
    if len(scores) > 1 and route.tasks and route.posterior:
        return np.concatenate([p * _softmax(score) for p, score in zip(route.posterior, scores, strict=True)])
    return _softmax(np.concatenate(scores))


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(scores - scores.max())
    probabilities: NDArray[np.float64] = shifted / shifted.sum()
    return probabilities
