"""The image router: discriminants in closed form from per-task statistics. numpy only.

Each task is one Gaussian over the router's features. Its covariance is the pooled within-task covariance of all tasks with a
share of its own: regularized discriminant analysis (Friedman, JASA 1989), the own part of low rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.leave_one_out import left_out_distances
from mingle_edge.routing.statistics import Array, Covariance, RouterStatistics

OWN_SHARE = 0.1  # of a task's own covariance in the covariance it is judged by
DIRECTIONS = 64  # of a task's own covariance, at most
ALL_DIRECTIONS = 640  # of all tasks together, at most, so that many tasks cannot make the router large
TYPICAL = 0.999  # share of a task's own images, as drawn, that are inside the confidence bound
TYPICAL_LEFT_OUT = 0.99  # share of left-out seeds and their variations that are: they are too few to tell more
SAMPLES = 4096  # drawn per task to find that bound


@dataclass(frozen=True)
class Router:
    """The router's arithmetic. With features f `[F]`: v = (f - center) weight; u = (f - center) directions + shifts;
    posterior = softmax(v + bias + own), own_t = the sum of u_j^2 over the directions j of task t; z = v whitening;
    confidence = -min_t ||z - centers_t||^2, the negative squared Mahalanobis distance to the nearest task within the space
    that the linear part spans."""

    center: Array  # [F]
    weight: Array  # [F, T]
    bias: Array  # [T]
    directions: Array  # [F, K], along which a task varies more than all tasks do
    shifts: Array  # [K]
    owners: NDArray[np.int64]  # [K], the task that a direction belongs to, ascending
    whitening: Array  # [T, T]
    centers: Array  # [T, T], row t is task t
    confidence_bound: float  # an image below it is claimed by no task

    def posterior(self, features: Array) -> tuple[Array, Array]:
        """Return posterior `[n, T]` and confidence `[n]` of features `[n, F]`."""
        centered = features - self.center
        v = centered @ self.weight
        scores = v + self.bias + (centered @ self.directions + self.shifts) ** 2 @ self.members
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        distances = ((v @ self.whitening)[:, None, :] - self.centers) ** 2  # [n, T, T]
        return scores / scores.sum(axis=1, keepdims=True), -distances.sum(axis=2).min(axis=1)

    @property
    def members(self) -> Array:
        """Return `[K, T]`: a one where a direction belongs to a task."""
        return np.asarray(self.owners[:, None] == np.arange(len(self.bias)), dtype=np.float64)


def fit_router(statistics: Sequence[RouterStatistics], own_share: float = OWN_SHARE) -> Router:
    """Fit the router of T >= 1 tasks from their statistics alone.

    With S the pooled covariance, shrunk, and S_t that of task t, x is judged by its distance to the task's mean under
    `M + own_share S_t`, M = S without that share of the pooled covariance. The distance is that under M, which is linear in x
    but for what all tasks have in common, less the squares along the leading directions of S_t (Woodbury). There is no term
    for the volume of a task's covariance: few seeds do not tell it. With an own share of 0 they are linear.
    """
    means = np.stack([s.mean for s in statistics]).astype(np.float64)  # [T, F]
    covariance = Covariance.pooled(statistics)
    scale = covariance.scale
    center = means.mean(axis=0)
    offsets = (means - center) / scale  # [T, F]
    inverse = covariance.inverse(1 - own_share)
    weight = (inverse(offsets.T).T / scale).T  # [F, T]
    gram = (means - center) @ weight  # [T, T], Mahalanobis inner products of the task means
    eigenvalues, eigenvectors = np.linalg.eigh((gram + gram.T) / 2)
    kept = eigenvalues > 1e-10 * max(eigenvalues.max(), 1e-300)
    whitening = np.where(kept, eigenvectors / np.sqrt(np.where(kept, eigenvalues, 1.0)), 0.0)  # [T, T]
    judged = len(means) > 1 and own_share > 0
    own = _own_directions(statistics, covariance, inverse, own_share) if judged else [np.zeros((len(scale), 0))]
    directions = np.concatenate(own, axis=1) / scale[:, None]  # [F, K]
    owners = np.repeat(np.arange(len(own)), [of_task.shape[1] for of_task in own])
    unbounded = Router(
        center=center,
        weight=weight,
        bias=-0.5 * np.diag(gram),
        directions=directions,
        shifts=-((means - center)[owners] * directions.T).sum(axis=1),
        owners=owners,
        whitening=whitening,
        centers=gram @ whitening,
        confidence_bound=-np.inf,
    )
    bound = _typical_confidence(unbounded, statistics, covariance, 1 - own_share)
    return replace(unbounded, confidence_bound=bound)


def _own_directions(
    statistics: Sequence[RouterStatistics], covariance: Covariance, inverse: Callable[[Array], Array], own_share: float
) -> list[Array]:
    """Return, for each task, directions `[F, r]` of scaled features: half what its own covariance takes from a squared distance
    is
    the sum of the squares along them."""
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


def _typical_confidence(router: Router, statistics: Sequence[RouterStatistics], covariance: Covariance, weight: float) -> float:
    """Return the confidence that all but 0.1% of each task's images, drawn, and all but 1% of left-out seeds' exceed.

    Images are drawn around each task's mean with the scatter of its own seeds plus the pooled, shrunk covariance (the
    identity in the whitened space). Where seeds are few for so many features, they lie nearer to their own mean than images
    that the router has not seen, and left-out seeds tell how far these lie.
    """
    random = np.random.default_rng(0)
    spanned = np.any(router.whitening != 0, axis=0)
    farthest = 0.0
    for t, s in enumerate(statistics):
        spread = s.factor.astype(np.float64) / np.sqrt(max(s.count - 1, 1)) @ router.weight @ router.whitening  # [q, T]
        z = router.centers[t] + random.standard_normal((SAMPLES, len(spread))) @ spread
        z += random.standard_normal(z.shape) * spanned * np.sqrt(1 + 1 / s.count)
        distances = ((z[:, None, :] - router.centers) ** 2).sum(axis=2).min(axis=1)
        farthest = max(farthest, float(np.quantile(distances, TYPICAL)))
    left_out = [distances.ravel() for _, distances in left_out_distances(statistics, covariance, weight)]
    if left_out:
        farthest = max(farthest, float(np.quantile(np.concatenate(left_out), TYPICAL_LEFT_OUT)))
    return -farthest
