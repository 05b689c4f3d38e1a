"""How many blocks the image router reads: the fewest that route the seeds as well, each seed judged by the others. numpy only.

Leave-one-out in closed form: a seed leaves with all its variations, its task's mean and scatter change, and with them the
pooled covariance, whose inverse is downdated (Woodbury). Scale and shrinkage of the covariance stay those of all seeds, and
scores are the linear ones, without a task's own covariance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from mingle_edge.router import Array, Covariance, RouterStatistics

DEEPEST = 3  # blocks that statistics are taken of, where the depth is to be chosen


def deepest(router_blocks: int | Literal["auto"], layers: int) -> int:
    """The blocks that statistics are taken of, in a tower of so many layers."""
    return min(DEEPEST, layers) if router_blocks == "auto" else router_blocks


def choose_depth(statistics: Sequence[RouterStatistics], features_per_depth: int) -> int:
    """The smallest depth that routes left-out seeds as well as the best depth, as far as they can tell.

    That is, the difference of their errors is at most its standard error: a one-standard-error rule (Breiman, Friedman,
    Olshen, Stone, "Classification and Regression Trees", 1984, section 3.4.3) on differences, as all depths are tried on the
    same seeds. Where no task has two seeds, nothing tells that less would do, and it is the deepest.
    """
    depths = len(statistics[0].mean) // features_per_depth
    if not any(_can_leave(s) for s in statistics):
        return depths - 1
    errors = [left_out_errors([s.first(features_per_depth * (m + 1)) for s in statistics]) for m in range(depths)]
    best = min(errors, key=lambda shares: mean_of_tasks(shares)[0])
    worse = [mean_of_tasks([a - b for a, b in zip(shares, best, strict=True)]) for shares in errors]
    return next(depth for depth, (difference, standard_error) in enumerate(worse) if difference <= standard_error)


def left_out_errors(statistics: Sequence[RouterStatistics]) -> list[Array]:
    """For each task with at least two seeds, of k of its seeds `[k]`: the share of its images routed to another task.

    Its images are the seed and its variations, and the router has seen none of them.
    """
    return [(scores.argmax(axis=2) != task).mean(axis=1) for task, scores in left_out_scores(statistics)]


def mean_of_tasks(values: Sequence[Array]) -> tuple[float, float]:
    """The mean over tasks of the mean over seeds of values `[k]` per task, and its standard error."""
    variance = sum(float(of_task.var(ddof=1)) / len(of_task) for of_task in values)
    return float(np.mean([of_task.mean() for of_task in values])), math.sqrt(variance) / len(values)


def left_out_scores(statistics: Sequence[RouterStatistics]) -> Iterator[tuple[int, Array]]:
    """Of each task with at least two seeds, its number and discriminant scores `[k, v, T]`.

    They are those of k of its seeds (v images each) by the router that never saw that seed.
    """
    covariance = Covariance.pooled(statistics)
    degrees = max(covariance.degrees - 1, 1)
    share = (1 - covariance.shrinkage) / degrees
    inverse = covariance.inverse(covariance.degrees / degrees)  # one degree of freedom less, and nothing taken out yet
    means = np.stack([s.mean for s in statistics]).astype(np.float64)
    means = (means - means.mean(axis=0)) / covariance.scale  # [T, F]
    for task, own in enumerate(statistics):
        if _can_leave(own):
            basis = np.concatenate([own.factor / covariance.scale, means])  # [q + T, F]
            yield task, _scores_of_seeds(own, task, basis @ inverse(basis.T), share)


def _scores_of_seeds(own: RouterStatistics, task: int, products: Array, share: float) -> Array:
    """Scores `[k, v, T]` of one task's seeds, from inner products `[q + T, q + T]` under the inverse covariance.

    They are those of the rows of its factor and of all means; `share` is the weight of a task's scatter in the covariance.
    """
    assert own.coordinates is not None  # see _can_leave
    coordinates = own.coordinates.astype(np.float64)
    seeds, images, q = coordinates.shape
    others, T = own.count - 1, len(products) - q
    # What leaves the scatter with a seed, about the mean of the other seeds, is factor' leaving leaving' factor.
    weights = np.linalg.cholesky(np.eye(images) + 1 / (images * others))  # [v, v]
    leaving = coordinates.transpose(0, 2, 1) @ weights  # [k, q, v]
    across = products[:, :q] @ leaving  # [k, q + T, v]
    correction = share * np.linalg.inv(np.eye(images) - share * leaving.transpose(0, 2, 1) @ across[:, :q])  # [k, v, v]
    # Means and images in terms of the basis. The mean of a seed's own task moves away from it.
    centres = np.zeros((seeds, T, q + T))
    centres[:, :, q:] = np.eye(T)
    centres[:, task, :q] = -coordinates.sum(axis=1) / (math.sqrt(images) * others)
    points = np.zeros((seeds, images, q + T))
    points[:, :, :q] = math.sqrt(images) * coordinates
    points[:, :, q + task] = 1

    apart = centres @ across  # [k, T, v]
    corrected, plain = (apart @ correction).transpose(0, 2, 1), (centres @ products).transpose(0, 2, 1)  # [k, ., T]
    lengths = (centres.transpose(0, 2, 1) * plain).sum(axis=1) + (apart.transpose(0, 2, 1) * corrected).sum(axis=1)  # [k, T]
    return np.asarray(points @ plain + points @ across @ corrected - lengths[:, None, :] / 2)


def _can_leave(own: RouterStatistics) -> bool:
    """Whether a seed can leave and others remain."""
    return own.count > 1 and own.coordinates is not None
