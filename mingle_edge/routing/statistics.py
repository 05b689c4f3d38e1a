"""What the image router keeps of a task, and the covariance that all tasks are judged by. numpy only.

A task's statistics (mean, thin factor of its scatter, seed count) never change when another task is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOMENTS = 4  # features of each channel at each depth
EXPLAINED = 0.999  # of the trace of the scatter of scaled features in the thin factor
MAX_FACTOR_ROWS = 256
KEPT_SEEDS = 64  # whose coordinates are kept, evenly spaced among all
SINGULAR = 1e-9  # of the scatter, in terms of coordinates: less is rounding


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
        """Take the statistics of features `[n, v, F]` of n seed images with v images of each.

        The thin factor keeps 99.9% of the scatter's trace, at most 256 rows, where every feature has unit variance: features
        of different depth have different scales, and any first part of them must be kept as well as the whole.
        """
        count, each, size = features.shape
        x = features.reshape(count * each, size).astype(np.float64)
        mean = x.mean(axis=0)
        centered = (x - mean) / np.sqrt(each)
        scale = _deviation((centered**2).sum(axis=0))
        centered /= scale
        # Eigenvectors of the smaller Gram matrix: strong directions are all that is kept, and they come out exact.
        wide = len(centered) < size
        eigenvalues, eigenvectors = np.linalg.eigh(centered @ centered.T if wide else centered.T @ centered)
        explained = np.cumsum(eigenvalues[::-1].clip(0))
        kept = min(int(np.searchsorted(explained, EXPLAINED * explained[-1])) + 1, MAX_FACTOR_ROWS, len(explained))
        leading, singular = eigenvectors[:, ::-1][:, :kept], np.sqrt(eigenvalues[::-1][:kept].clip(0))
        if wide:
            coordinates, factor = leading, leading.T @ centered  # [n v, q], [q, F]
        else:
            coordinates, factor = centered @ leading / np.where(singular > 0, singular, 1.0), singular[:, None] * leading.T
        seeds = kept_seeds(count)
        coordinates = coordinates.reshape(count, each, kept)[seeds]
        return cls(mean.astype(np.float32), (factor * scale).astype(np.float32), count, coordinates.astype(np.float32))

    def columns(self, chosen: NDArray[np.int64]) -> RouterStatistics:
        """Return the statistics of the features of these numbers."""
        return replace(self, mean=self.mean[chosen], factor=self.factor[:, chosen])

    def images(self, seeds: NDArray[np.int64]) -> Array:
        """Return the features `[n v, F]` of some of the seeds whose coordinates are kept, each with its variations."""
        assert self.coordinates is not None  # see can_leave
        each, rows = self.coordinates.shape[1:]
        coordinates = self.coordinates[seeds].reshape(-1, rows).astype(np.float64)
        return self.mean + math.sqrt(each) * coordinates @ self.factor.astype(np.float64)

    def without(self, seeds: NDArray[np.int64]) -> RouterStatistics:
        """Return the statistics that the other seeds would have given, for fewer seeds than there are.

        In terms of coordinates, the scatter of all images is the identity about the mean, and what leaves is subtracted
        from it, with what the mean moves.
        """
        assert self.coordinates is not None
        each, rows = self.coordinates.shape[1:]
        left = self.count - len(seeds)
        leaving = self.coordinates[seeds].reshape(-1, rows).astype(np.float64)
        moved = -leaving.sum(axis=0) / (left * each)  # [q]
        scatter = np.eye(rows) - leaving.T @ leaving - left * each * np.outer(moved, moved)
        eigenvalues, eigenvectors = np.linalg.eigh(scatter)
        kept = eigenvalues > SINGULAR
        root = np.sqrt(eigenvalues[kept])[:, None] * eigenvectors[:, kept].T  # [r, q]
        factor = self.factor.astype(np.float64)
        mean = self.mean + math.sqrt(each) * moved @ factor
        return RouterStatistics(mean.astype(np.float32), (root @ factor).astype(np.float32), left)


def rotated(statistics: Sequence[RouterStatistics]) -> tuple[list[RouterStatistics], Array, float]:
    """Return statistics of as few features as tell the same, with the scale `[D]` and the shrinkage of their covariance.

    Seeds and means of T tasks span fewer dimensions than a large tower has features. In an orthonormal basis of that span (of
    scaled features; Cholesky factors are coordinates in one) distances between them are what they were.
    """
    covariance = Covariance.pooled(statistics)
    means = np.stack([s.mean for s in statistics]).astype(np.float64)
    offsets = (means - means.mean(axis=0)) / covariance.scale  # [T, F]
    vectors = np.concatenate([covariance.rows, offsets])  # [Q + T, F]
    if len(vectors) >= vectors.shape[1]:
        return list(statistics), covariance.scale, covariance.shrinkage
    gram = vectors @ vectors.T
    coordinates = np.linalg.cholesky(gram + SINGULAR * np.trace(gram) / len(gram) * np.eye(len(gram)))  # [Q + T, Q + T]
    sizes = [len(s.factor) for s in statistics]
    factors = np.split(coordinates[: sum(sizes)] * np.sqrt(covariance.degrees), np.cumsum(sizes)[:-1])
    of_tasks = zip(statistics, factors, coordinates[sum(sizes) :], strict=True)
    turned = [replace(s, mean=mean.astype(np.float32), factor=factor.astype(np.float32)) for s, factor, mean in of_tasks]
    return turned, np.ones(len(vectors)), covariance.shrinkage


def kept_seeds(count: int) -> NDArray[np.int64]:
    """Return the numbers of the seeds, of so many, that are looked at one by one: all up to 64, or 64 spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, KEPT_SEEDS)).round().astype(np.int64))


def oas_shrinkage(trace: float, trace_of_square: float, dimensions: int, samples: int) -> float:
    """Return the weight of the identity in a shrunk covariance estimate, in (0, 1]: oracle approximating shrinkage.

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
    def pooled(
        cls, statistics: Sequence[RouterStatistics], scale: Array | None = None, shrinkage: float | None = None
    ) -> Covariance:
        """Pool the covariance of features scaled to unit within-task variance; their correlation matrix is shrunk by OAS.

        scale, shrinkage: those of other statistics `[F]`, to be kept.
        """
        degrees = max(sum(s.count - 1 for s in statistics), 1)
        factor = np.concatenate([s.factor for s in statistics]).astype(np.float64) / np.sqrt(degrees)  # [Q, F]
        scale = _deviation((factor**2).sum(axis=0)) if scale is None else scale
        rows = factor / scale
        gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
        if shrinkage is None:
            shrinkage = oas_shrinkage(float(np.trace(gram)), float((gram**2).sum()), rows.shape[1], degrees)
        return cls(scale, rows, gram, shrinkage, degrees)

    def inverse(self, weight: float) -> Callable[[Array], Array]:
        """Return `X [F, k] -> ((1 - s) weight rows' rows + s I)^-1 X`, on the smaller side of the rows (Woodbury)."""
        share, rows = (1 - self.shrinkage) * weight, self.rows
        small = np.linalg.inv(share * self.gram + self.shrinkage * np.eye(len(self.gram)))
        if len(rows) > rows.shape[1]:
            return lambda x: small @ x
        return lambda x: (x - share * (rows.T @ (small @ (rows @ x)))) / self.shrinkage


def _deviation(variance: Array) -> Array:
    """Return deviations to scale features `[F]` by. Where all seeds are one image, nothing is known, and features keep their
    scale.
    """
    return np.asarray(np.sqrt(variance + (1e-6 * variance.mean() or 1.0)))
