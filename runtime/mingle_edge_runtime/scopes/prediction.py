"""From an embedding to labels: the logits of heads, in the three ways an application may ask.

With the task or the head given, its labels compete in one softmax. With nothing given, the labels of all tasks compete: each
task's softmax weighted by the router's posterior, or, where there is none to trust, one softmax over all labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.head import Head
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.scopes.notebook import html_table
from mingle_edge_runtime.scopes.route import Route


@dataclass(frozen=True, repr=False)
class Prediction:
    """The most probable labels of one image, best first."""

    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    """the task each label belongs to"""
    probabilities: tuple[float, ...]
    """of each label among all that competed"""
    route: Route
    """the experts that ran"""
    rejected: bool = False
    """whether the best probability is below the `reject_below` that was asked for: no label is the answer"""

    @property
    def label(self) -> str | None:
        """Return the most probable label; None where the image was rejected."""
        return None if self.rejected else self.labels[0]

    @property
    def task(self) -> str | None:
        """Return the task of `label`; None where the image was rejected."""
        return None if self.rejected else self.tasks[0]

    @property
    def probability(self) -> float:
        """Return the probability of the most probable label, also where the image was rejected for it."""
        return self.probabilities[0]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: all fields with `label`, `task` and `probability`, and the route's `to_dict`."""
        return {
            "label": self.label,
            "task": self.task,
            "probability": self.probability,
            "rejected": self.rejected,
            "labels": list(self.labels),
            "tasks": list(self.tasks),
            "probabilities": list(self.probabilities),
            "route": self.route.to_dict(),
        }

    def __repr__(self) -> str:
        """Return the answer in a line: the best label, how many follow, and the experts that ran."""
        best = f"{self.labels[0]!r} of {self.tasks[0]!r}, probability {self.probability:.3f}"
        more = f", {len(self.labels) - 1} more" if len(self.labels) > 1 else ""
        return f"Prediction({'rejected: ' if self.rejected else ''}{best}{more}, {self._experts()})"

    def _repr_html_(self) -> str:
        """Return a table of the labels for a notebook."""
        rows = zip(self.labels, self.tasks, (f"{probability:.1%}" for probability in self.probabilities), strict=True)
        return html_table(f"{'rejected, ' if self.rejected else ''}{self._experts()}", rows)

    def _experts(self) -> str:
        shares = zip(self.route.tasks, self.route.weights, strict=True)
        return "experts: " + (", ".join(f"{task} {weight:.2f}" for task, weight in shares) or "none, plain backbone")


def predict(
    embed: NDArray[np.float32],
    route: Route,
    heads: Mapping[str, Head],
    labels: Mapping[str, Sequence[str]],
    top: int,
    reject_below: float | None = None,
) -> Prediction:
    """Return the `top` labels of one embedding `[dim]` among those of `heads`.

    heads: the tasks that compete, in the order of `route.posterior` where they are all of the bundle's.
    reject_below: reject the image where no probability reaches this one.

    Raises `BundleError` where a probability is no number.
    """
    probabilities = label_probabilities(embed, route, heads)
    if not np.isfinite(probabilities).all():
        raise BundleError("the bundle computes probabilities that are no numbers: its router or a weight is damaged, verify it")
    names = [(task, label) for task in heads for label in labels[task]]
    best = np.argsort(-probabilities, kind="stable")[:top]
    tasks, chosen = zip(*(names[i] for i in best), strict=True)
    rejected = reject_below is not None and bool(probabilities[best[0]] < reject_below)
    return Prediction(chosen, tasks, tuple(probabilities[best].tolist()), route, rejected)


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
