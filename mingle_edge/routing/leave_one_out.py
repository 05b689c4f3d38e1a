"""Leave-one-out for the image router in closed form: what a router that never saw a seed says of it. numpy only.

A seed leaves with all its variations: its task's mean and scatter change, and with them the pooled covariance, whose inverse
is downdated (Woodbury). Scale and shrinkage of the covariance stay those of all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mingle_edge.routing.statistics import Array, Covariance, RouterStatistics


def can_leave(own: RouterStatistics) -> bool:
    """Say whether a seed can leave and others remain."""
    return own.count > 1 and own.coordinates is not None


def left_out_scores(statistics: Sequence[RouterStatistics]) -> Iterator[tuple[int, Array]]:
    """Yield, of each task with at least two seeds, its number and linear discriminant scores `[k, v, T]`.

    They are those of k of its seeds (v images each) by the router that never saw that seed, without a task's own covariance.
    """
    for task, products, gram in _products(statistics, Covariance.pooled(statistics)):
        yield task, products - np.diagonal(gram, axis1=1, axis2=2)[:, None, :] / 2


def _products(statistics: Sequence[RouterStatistics], covariance: Covariance) -> Iterator[tuple[int, Array, Array]]:
    """Yield, of each task with at least two seeds, its number and inner products under the inverse covariance without a seed.

    Of images with means `[k, v, T]`, and of means with one another `[k, T, T]`, all about one origin.
    """
    degrees = max(covariance.degrees - 1, 1)
    share = (1 - covariance.shrinkage) / degrees
    inverse = covariance.inverse(covariance.degrees / degrees)  # one degree of freedom less, nothing taken out yet
    means = np.stack([s.mean for s in statistics]).astype(np.float64)
    means = (means - means.mean(axis=0)) / covariance.scale  # [T, F]
    for task, own in enumerate(statistics):
        if can_leave(own):
            basis = np.concatenate([own.factor / covariance.scale, means])  # [q + T, F]
            yield task, *_without_a_seed(own, task, basis @ inverse(basis.T), share)


def _without_a_seed(own: RouterStatistics, task: int, products: Array, share: float) -> tuple[Array, Array]:
    """See `_products`, for one task, from inner products `[q + T, q + T]` before anything has left.

    They are those of the rows of its factor and of all means; `share` is the weight of a task's scatter in the covariance.
    """
    assert own.coordinates is not None  # see can_leave
    coordinates = own.coordinates.astype(np.float64)
    seeds, images, q = coordinates.shape
    others, T = own.count - 1, len(products) - q
    # What leaves the scatter with a seed, about the mean of the other seeds, is factor' leaving leaving' factor.
    weights = np.linalg.cholesky(np.eye(images) + 1 / (images * others))  # [v, v]
    leaving = coordinates.transpose(0, 2, 1) @ weights  # [k, q, v]
    across = products[:, :q] @ leaving  # [k, q + T, v]
    correction = share * np.linalg.inv(np.eye(images) - share * leaving.transpose(0, 2, 1) @ across[:, :q])  # [k, v, v]
    # Means and images in terms of the basis. The mean of a seed's own task moves away from it.
    centers = np.zeros((seeds, T, q + T))
    centers[:, :, q:] = np.eye(T)
    centers[:, task, :q] = -coordinates.sum(axis=1) / (math.sqrt(images) * others)
    points = np.zeros((seeds, images, q + T))
    points[:, :, :q] = math.sqrt(images) * coordinates
    points[:, :, q + task] = 1
    towards = (centers @ products + centers @ across @ correction @ across.transpose(0, 2, 1)).transpose(0, 2, 1)  # [k, q+T, T]
    return points @ towards, centers @ towards
