"""The outputs of the model: what predictions are as tensors of n images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime import Prediction


@dataclass(frozen=True)
class Answer:
    """What became of one request's images."""

    predictions: Sequence[Prediction]
    embeddings: NDArray[np.float32]
    """`[n, dim]`"""
    seconds: dict[str, float]
    """of `decode`, `queue` and `run`"""


@dataclass(frozen=True)
class Output:
    """One output tensor."""

    datatype: str
    side: str
    """what the second side is, after the number of images; empty where there is none"""
    values: Callable[[Answer], NDArray[Any]]
    by_default: bool = True
    """whether a request that names no outputs gets it"""


def _texts(rows: Sequence[Sequence[str]]) -> NDArray[Any]:
    """Return rows of texts, shorter ones filled up with empty texts."""
    table = np.full((len(rows), max(map(len, rows), default=0)), "", np.object_)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _numbers(rows: Sequence[Sequence[float]], kind: type[np.floating[Any]]) -> NDArray[Any]:
    """Return rows of numbers, shorter ones filled up with 0."""
    table = np.zeros((len(rows), max(map(len, rows), default=0)), kind)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _confidences(answer: Answer) -> NDArray[Any]:
    values = [prediction.route.confidence for prediction in answer.predictions]
    return np.array([np.nan if value is None else value for value in values], np.float32)


OUTPUTS = {
    "labels": Output("BYTES", "top", lambda answer: _texts([p.labels for p in answer.predictions])),
    "tasks": Output("BYTES", "top", lambda answer: _texts([p.tasks for p in answer.predictions])),
    "probabilities": Output("FP64", "top", lambda answer: _numbers([p.probabilities for p in answer.predictions], np.float64)),
    "rejected": Output("BOOL", "", lambda answer: np.array([p.rejected for p in answer.predictions], np.bool_)),
    "route_tasks": Output("BYTES", "experts", lambda answer: _texts([p.route.tasks for p in answer.predictions])),
    "route_weights": Output(
        "FP64", "experts", lambda answer: _numbers([p.route.weights for p in answer.predictions], np.float64)
    ),
    "route_stage": Output("BYTES", "", lambda answer: np.array([p.route.stage or "" for p in answer.predictions], np.object_)),
    "confidence": Output("FP32", "", _confidences),
    "posterior": Output(
        "FP32",
        "tasks",
        lambda answer: _numbers([p.route.posterior or () for p in answer.predictions], np.float32),
        by_default=False,
    ),
    "embedding": Output("FP32", "dim", lambda answer: answer.embeddings, by_default=False),
}
"""By name, in the order of a response. Probabilities and weights are double, as `EdgeModel` has them: no bit is lost."""
