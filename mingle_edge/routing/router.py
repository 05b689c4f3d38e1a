"""The image router: discriminants in closed form from per-task statistics. numpy only.

Each task is one Gaussian over the router's features. Its covariance is the pooled within-task covariance of all tasks with a
share of its own: regularized discriminant analysis (Friedman, JASA 1989), the own part of low rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.statistics import Array, Covariance, RouterStatistics

OWN_SHARE = 0.1  # of a task's own covariance in the covariance it is judged by
DIRECTIONS = 64  # of a task's own covariance, at most
ALL_DIRECTIONS = 640  # of all tasks together, at most, so that many tasks cannot make the router large
CERTAIN = 1e-12  # of the probability that another task is right: less does not count as more certain


@dataclass(frozen=True)
class Router:
    """The router's arithmetic. With features f `[F]`: v = (f - center) weight; u = (f - center) directions + shifts;
    scores = v + bias + own, own_t = the sum of u_j^2 over directions j of task t; posterior = softmax(scores / temperature).

    nearness = 2 max(v + bias) - ||v spread||^2: how much nearer the image is to a task than to all that the tasks are together,
    in squared Mahalanobis distances, relative ones (Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD
    detection", 2021). confidence = (nearness, -log(1 - max posterior)) trust."""

    center: Array  # [F]
    weight: Array  # [F, T]
    bias: Array  # [T]
    directions: Array  # [F, K], along which a task varies more than all tasks do
    shifts: Array  # [K]
    owners: NDArray[np.int64]  # [K], the task that a direction belongs to, ascending
    spread: Array  # [T, T]
    temperature: float = 1.0
    trust: tuple[float, float] = (1.0, 0.0)  # in nearness, and in certainty
    confidence_bound: float = -np.inf  # an image below it is claimed by no task

    def posterior(self, features: Array) -> tuple[Array, Array]:
        """Return posterior `[n, T]` and confidence `[n]` of features `[n, F]`."""
        scores, nearness = self.scores(features)
        posterior = softmax(scores / self.temperature)
        return posterior, self.confidence(posterior, nearness)

    def scores(self, features: Array) -> tuple[Array, Array]:
        """Return scores `[n, T]` and nearness `[n]` of features `[n, F]`."""
        centered = features - self.center
        v = centered @ self.weight
        linear: Array = v + self.bias
        nearness = 2 * linear.max(axis=1) - ((v @ self.spread) ** 2).sum(axis=1)
        own = (centered @ self.directions + self.shifts) ** 2 @ self.members
        return np.asarray(linear + own), nearness

    def confidence(self, posterior: Array, nearness: Array) -> Array:
        """Return the confidence `[n]` that some task claims an image."""
        in_nearness, in_certainty = self.trust
        return np.asarray(in_nearness * nearness + in_certainty * certainty(posterior))

    @property
    def members(self) -> Array:
        """Return `[K, T]`: a one where a direction belongs to a task."""
        return np.asarray(self.owners[:, None] == np.arange(len(self.bias)), dtype=np.float64)


def softmax(scores: Array) -> Array:
    """Return probabilities `[n, T]` of scores `[n, T]`."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def certainty(posterior: Array) -> Array:
    """Return `-log(1 - p)` `[n]` of the largest of each image's probabilities `[n, T]`."""
    return np.asarray(-np.log(np.maximum(1 - posterior.max(axis=1), CERTAIN)))


def fit_router(
    statistics: Sequence[RouterStatistics], own_share: float = OWN_SHARE, covariance: Covariance | None = None
) -> Router:
    """Fit the router of T >= 1 tasks from their statistics alone; `calibrated` makes its probabilities honest.

    With S the pooled covariance, shrunk, and S_t that of task t, x is judged by its distance to the task's mean under
    `M + own_share S_t`, M = S without that share of the pooled covariance. The distance is that under M, which is linear in x
    but for what all tasks have in common, less the squares along the leading directions of S_t (Woodbury). There is no term
    for the volume of a task's covariance: few seeds do not tell it. With an own share of 0 they are linear. S is pooled from
    the statistics, unless it is given.
    """
    means = np.stack([s.mean for s in statistics]).astype(np.float64)  # [T, F]
    covariance = covariance or Covariance.pooled(statistics)
    scale = covariance.scale
    center = means.mean(axis=0)
    offsets = (means - center) / scale  # [T, F]
    inverse = covariance.inverse(1 - own_share)
    weight = (inverse(offsets.T).T / scale).T  # [F, T]
    gram = (means - center) @ weight  # [T, T], Mahalanobis inner products of the task means
    gram = (gram + gram.T) / 2
    judged = len(means) > 1 and own_share > 0
    own = _own_directions(statistics, covariance, inverse, own_share) if judged else [np.zeros((len(scale), 0))]
    directions = np.concatenate(own, axis=1) / scale[:, None]  # [F, K]
    owners = np.repeat(np.arange(len(own)), [of_task.shape[1] for of_task in own])
    return Router(
        center=center,
        weight=weight,
        bias=-0.5 * np.diag(gram),
        directions=directions,
        shifts=-((means - center)[owners] * directions.T).sum(axis=1),
        owners=owners,
        spread=_spread(gram),
    )


def _spread(gram: Array) -> Array:
    """Return R `[T, T]` with v R R' v' = what the tasks' spread about their center takes from a squared distance.

    The covariance of all is M plus that of the means, `offsets' offsets / T`; Woodbury's formula leaves v (T I + gram)^-1 v'.
    """
    return np.linalg.inv(np.linalg.cholesky(len(gram) * np.eye(len(gram)) + gram)).T


def _own_directions(
    statistics: Sequence[RouterStatistics], covariance: Covariance, inverse: Callable[[Array], Array], own_share: float
) -> list[Array]:
    """Return, for each task, directions `[F, r]` of scaled features.

    The sum of the squares along them is half of what the task's own covariance takes from a squared distance.
    """
    directions = []
    rank = min(DIRECTIONS, ALL_DIRECTIONS // len(statistics))
    for s in statistics:
        share = own_share * (1 - covariance.shrinkage) / max(s.count - 1, 1)
        factor = np.sqrt(share) * s.factor / covariance.scale  # [q, F], in float64
        solved = inverse(factor.T)  # [F, q]
        eigenvalues, eigenvectors = np.linalg.eigh(factor @ solved)
        eigenvalues, eigenvectors = eigenvalues[::-1][:rank].clip(0), eigenvectors[:, ::-1][:, :rank]
        # (I + factor M^-1 factor')^-1 in Woodbury's formula, on its eigenvectors.
        directions.append(solved @ (eigenvectors * np.sqrt(0.5 / (1 + eigenvalues))))
    return directions
