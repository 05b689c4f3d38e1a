"""The image router: discriminants in closed form from per-task statistics. numpy only.

Each task is one Gaussian over the router's features. Its covariance is the pooled within-task covariance of all tasks with a
share of its own: regularized discriminant analysis (Friedman, JASA 1989), the own part of low rank. A task's statistics (mean,
thin factor of its scatter, seed count) never change when another task is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOMENTS = 4  # features of each channel at each depth; 2 in merged models of format versions 1 and 2
OWN_SHARE = 0.1  # of a task's own covariance in the covariance it is judged by
DIRECTIONS = 64  # of a task's own covariance, at most
ALL_DIRECTIONS = 640  # of all tasks together, at most, so that many tasks cannot make the router large
KEPT_ENERGY = 0.999  # of the trace of the scatter of scaled features in the thin factor
MAX_FACTOR_ROWS = 256
KEPT_SEEDS = 64  # whose coordinates are kept, evenly spaced among all
TYPICAL = 0.999  # share of a task's own images that should be inside the confidence bound
SAMPLES = 4096  # drawn per task to find that bound


@dataclass(frozen=True)
class RouterStatistics:
    """What the router keeps of one task. With v images of each seed (itself and its variations), image j of seed i has the
    features `mean + sqrt(v) coordinates[i, j] @ factor`, so that a seed can leave the statistics again."""

    mean: NDArray[np.float32]  # [F]
    factor: NDArray[np.float32]  # [q, F]; factor' factor = scatter about the mean, per seed image
    count: int  # seed images
    coordinates: NDArray[np.float32] | None = None  # [k, v, q], of k of the seeds; None from format version 1

    @classmethod
    def from_features(cls, features: NDArray[np.float32]) -> RouterStatistics:
        """Statistics of features `[n, v, F]` of n seed images with v images of each.

        The thin factor keeps 99.9% of the scatter's trace, at most 256 rows, where every feature has unit variance: features
        of different depth have different scales, and any first part of them must be kept as well as the whole.
        """
        count, each, size = features.shape
        x = features.reshape(count * each, size).astype(np.float64)
        mean = x.mean(axis=0)
        centred = (x - mean) / np.sqrt(each)
        scale = _deviation((centred**2).sum(axis=0))
        centred /= scale
        # Eigenvectors of the smaller Gram matrix: strong directions are all that is kept, and they come out exact.
        wide = len(centred) < size
        energies, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        energy = np.cumsum(energies[::-1].clip(0))
        kept = min(int(np.searchsorted(energy, KEPT_ENERGY * energy[-1])) + 1, MAX_FACTOR_ROWS, len(energy))
        leading, singular = vectors[:, ::-1][:, :kept], np.sqrt(energies[::-1][:kept].clip(0))
        if wide:
            coordinates, factor = leading, leading.T @ centred  # [n v, q], [q, F]
        else:
            coordinates, factor = centred @ leading / np.where(singular > 0, singular, 1.0), singular[:, None] * leading.T
        seeds = np.unique(np.linspace(0, count - 1, min(count, KEPT_SEEDS)).round().astype(int))
        coordinates = coordinates.reshape(count, each, kept)[seeds]
        return cls(mean.astype(np.float32), (factor * scale).astype(np.float32), count, coordinates.astype(np.float32))

    def first(self, features: int) -> RouterStatistics:
        """The statistics of the first so many features, which are those of a smaller depth."""
        return replace(self, mean=self.mean[:features], factor=self.factor[:, :features])


@dataclass(frozen=True)
class Discriminants:
    """The router's arithmetic. With features f `[F]`: v = (f - centre) weight; u = (f - centre) directions + shifts;
    posterior = softmax(v + bias + own), own_t = the sum of u_j^2 over the directions j of task t; z = v whitening;
    confidence = -min_t ||z - centers_t||^2, the negative squared Mahalanobis distance to the nearest task within the space
    that the linear part spans."""

    centre: Array  # [F]
    weight: Array  # [F, T]
    bias: Array  # [T]
    directions: Array  # [F, K], along which a task varies more than all tasks do
    shifts: Array  # [K]
    owners: NDArray[np.int64]  # [K], the task that a direction belongs to, ascending
    whitening: Array  # [T, T]
    centers: Array  # [T, T], row t is task t
    confidence_bound: float  # an image below it is claimed by no task

    def posterior(self, features: Array) -> tuple[Array, Array]:
        """Posterior `[n, T]` and confidence `[n]` of features `[n, F]`."""
        centred = features - self.centre
        v = centred @ self.weight
        scores = v + self.bias + (centred @ self.directions + self.shifts) ** 2 @ self.members
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        distances = ((v @ self.whitening)[:, None, :] - self.centers) ** 2  # [n, T, T]
        return scores / scores.sum(axis=1, keepdims=True), -distances.sum(axis=2).min(axis=1)

    @property
    def members(self) -> Array:
        """`[K, T]`: a one where a direction belongs to a task."""
        return np.asarray(self.owners[:, None] == np.arange(len(self.bias)), dtype=np.float64)


def oas_shrinkage(trace: float, trace_of_square: float, dimensions: int, samples: int) -> float:
    """Weight of the identity in a shrunk covariance estimate, in (0, 1]: oracle approximating shrinkage.

    Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE TSP 2010, eq. 23, without the
    terms in 1/p of its numerator, as commonly implemented.
    """
    numerator = trace_of_square / dimensions**2 + (trace / dimensions) ** 2
    denominator = (samples + 1) * (trace_of_square / dimensions**2 - (trace / dimensions) ** 2 / dimensions)
    return 1.0 if denominator <= 0 else float(min(numerator / denominator, 1.0))


@dataclass(frozen=True)
class Covariance:
    """The pooled within-task covariance of scaled features, shrunk towards the identity."""

    scale: Array  # [F], of the features
    rows: Array  # [Q, F] of scaled features; rows' rows = correlation matrix
    gram: Array  # rows rows' or rows' rows, whichever is smaller
    shrinkage: float  # weight of the identity
    degrees: int  # of freedom of the estimate

    @classmethod
    def pooled(cls, statistics: Sequence[RouterStatistics]) -> Covariance:
        """Features are scaled to unit within-task variance; their correlation matrix is shrunk by OAS."""
        degrees = max(sum(s.count - 1 for s in statistics), 1)
        factor = np.concatenate([s.factor for s in statistics]).astype(np.float64) / np.sqrt(degrees)  # [Q, F]
        scale = _deviation((factor**2).sum(axis=0))
        rows = factor / scale
        gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
        shrinkage = oas_shrinkage(float(np.trace(gram)), float((gram**2).sum()), rows.shape[1], degrees)
        return cls(scale, rows, gram, shrinkage, degrees)

    def inverse(self, weight: float) -> Callable[[Array], Array]:
        """`X [F, k] -> ((1 - s) weight rows' rows + s I)^-1 X`, on the smaller side of the rows (Woodbury)."""
        share, rows = (1 - self.shrinkage) * weight, self.rows
        small = np.linalg.inv(share * self.gram + self.shrinkage * np.eye(len(self.gram)))
        if len(rows) > rows.shape[1]:
            return lambda x: small @ x
        return lambda x: (x - share * (rows.T @ (small @ (rows @ x)))) / self.shrinkage


def discriminants(statistics: Sequence[RouterStatistics], own_share: float = OWN_SHARE) -> Discriminants:
    """Discriminants of T >= 1 tasks from their statistics alone.

    With S the pooled covariance, shrunk, and S_t that of task t, x is judged by its distance to the task's mean under
    `M + own_share S_t`, M = S without that share of the pooled covariance. The distance is that under M, which is linear in x
    but for what all tasks have in common, less the squares along the leading directions of S_t (Woodbury). There is no term
    for the volume of a task's covariance: few seeds do not tell it. With an own share of 0 they are linear.
    """
    means = np.stack([s.mean for s in statistics]).astype(np.float64)  # [T, F]
    covariance = Covariance.pooled(statistics)
    scale = covariance.scale
    centre = means.mean(axis=0)
    offsets = (means - centre) / scale  # [T, F]
    inverse = covariance.inverse(1 - own_share)
    weight = (inverse(offsets.T).T / scale).T  # [F, T]
    gram = (means - centre) @ weight  # [T, T], Mahalanobis inner products of the task means
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    kept = values > 1e-10 * max(values.max(), 1e-300)
    whitening = np.where(kept, vectors / np.sqrt(np.where(kept, values, 1.0)), 0.0)  # [T, T]
    judged = len(means) > 1 and own_share > 0
    found = _own_directions(statistics, covariance, inverse, own_share) if judged else [np.zeros((len(scale), 0))]
    directions = np.concatenate(found, axis=1) / scale[:, None]  # [F, K]
    owners = np.repeat(np.arange(len(found)), [part.shape[1] for part in found])
    unbounded = Discriminants(
        centre=centre,
        weight=weight,
        bias=-0.5 * np.diag(gram),
        directions=directions,
        shifts=-((means - centre)[owners] * directions.T).sum(axis=1),
        owners=owners,
        whitening=whitening,
        centers=gram @ whitening,
        confidence_bound=-np.inf,
    )
    return Discriminants(**(vars(unbounded) | {"confidence_bound": _typical_confidence(unbounded, statistics)}))


def _own_directions(
    statistics: Sequence[RouterStatistics], covariance: Covariance, inverse: Callable[[Array], Array], own_share: float
) -> list[Array]:
    """For each task, directions `[F, r]` of scaled features: half what its own covariance takes from a squared distance is
    the sum of the squares along them."""
    found = []
    rank = min(DIRECTIONS, ALL_DIRECTIONS // len(statistics))
    for s in statistics:
        share = own_share * (1 - covariance.shrinkage) / max(s.count - 1, 1)
        factor = np.sqrt(share) * s.factor / covariance.scale  # [q, F], in float64
        solved = inverse(factor.T)  # [F, q]
        energies, vectors = np.linalg.eigh(factor @ solved)
        energies, vectors = energies[::-1][:rank].clip(0), vectors[:, ::-1][:, :rank]
        # (I + factor M^-1 factor')^-1 in Woodbury's formula, on its eigenvectors.
        found.append(solved @ (vectors * np.sqrt(0.5 / (1 + energies))))
    return found


def _deviation(variance: Array) -> Array:
    """Deviations to scale features `[F]` by. Where all seeds are one image, nothing is known, and features keep their scale."""
    return np.asarray(np.sqrt(variance + (1e-6 * variance.mean() or 1.0)))


def _typical_confidence(router: Discriminants, statistics: Sequence[RouterStatistics]) -> float:
    """The confidence that all but 0.1% of each task's images should exceed.

    Images are drawn around each task's mean with the scatter of its own seeds plus the pooled, shrunk covariance (the
    identity in the whitened space): few seeds understate how far unseen images lie.
    """
    lowest = []
    random = np.random.default_rng(0)
    spanned = np.any(router.whitening != 0, axis=0)
    for t, s in enumerate(statistics):
        spread = s.factor.astype(np.float64) / np.sqrt(max(s.count - 1, 1)) @ router.weight @ router.whitening  # [q, T]
        z = router.centers[t] + random.standard_normal((SAMPLES, len(spread))) @ spread
        z += random.standard_normal(z.shape) * spanned * np.sqrt(1 + 1 / s.count)
        distances = ((z[:, None, :] - router.centers) ** 2).sum(axis=2).min(axis=1)
        lowest.append(np.quantile(-distances, 1 - TYPICAL))
    return float(min(lowest))
