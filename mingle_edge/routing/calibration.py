"""What routers that did not see a seed say of it, and honest probabilities from that. numpy only.

Seeds leave in folds: the statistics without a fold are in closed form, and the router fitted to them is asked about the images
of the fold. The temperature makes these probabilities honest (Guo et al., "On calibration of modern neural networks", ICML
2017, section 4.2), and the confidence bound is a quantile of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.leave_one_out import can_leave
from mingle_edge.routing.router import Router, certainty, fit_router, softmax
from mingle_edge.routing.statistics import Array, Covariance, RouterStatistics, rotated

FOLDS = 5
TEMPERATURES = np.geomspace(0.25, 64.0, 113)
NEXT_TO_NOTHING = 1.0  # squared distances, and nats: a smaller deviation is no scale
BINS = 15  # of the expected calibration error


@dataclass(frozen=True)
class LeftOut:
    """What routers say of images that they have not seen, task after task."""

    tasks: NDArray[np.int64]  # [n], own task
    seeds: NDArray[np.int64]  # [n], number of the seed within the task's kept seeds
    varied: NDArray[np.bool_]  # [n], whether it is a variation of the seed
    scores: Array  # [n, T]
    nearness: Array  # [n]

    def without_task(self, task: int) -> LeftOut:
        """Return the images of all other tasks as the same routers without this task would see them, nearness aside."""
        kept = self.tasks != task
        own = self.tasks[kept]
        scores = np.delete(self.scores[kept], task, axis=1)
        return LeftOut(own - (own > task), self.seeds[kept], self.varied[kept], scores, self.nearness[kept])

    def weights(self) -> Array:
        """Return weights `[n]` that sum to 1 and give every task the same."""
        counts = np.bincount(self.tasks, minlength=self.scores.shape[1])
        return np.asarray(1 / (counts[self.tasks] * (counts > 0).sum()))


def left_out(statistics: Sequence[RouterStatistics]) -> LeftOut | None:
    """Ask about every kept seed, with its variations, a router that never saw it; None where no task has a seed to spare.

    Scale and shrinkage of the covariance stay those of all seeds.
    """
    parts: list[tuple[Any, ...]] = []
    if not any(can_leave(s) for s in statistics):
        return None
    statistics, scale, shrinkage = rotated(statistics)
    for fold in range(FOLDS):
        out = [_fold(s, fold) for s in statistics]
        if not any(len(seeds) for seeds in out):
            continue
        rest = [s.without(seeds) if len(seeds) else s for s, seeds in zip(statistics, out, strict=True)]
        router = fit_router(rest, covariance=Covariance.pooled(rest, scale, shrinkage))
        for task, (s, seeds) in enumerate(zip(statistics, out, strict=True)):
            if not len(seeds):
                continue
            assert s.coordinates is not None
            each = s.coordinates.shape[1]
            scores, nearness = router.scores(s.images(seeds))
            varied = np.tile(np.arange(each) > 0, len(seeds))
            parts.append((np.full(len(scores), task), np.repeat(seeds, each), varied, scores, nearness))
    return LeftOut(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _fold(own: RouterStatistics, fold: int) -> NDArray[np.int64]:
    """Return the numbers of the kept seeds that leave with a fold: none where no other would be left."""
    if not can_leave(own):
        return np.empty(0, np.int64)
    assert own.coordinates is not None
    folds = min(FOLDS, len(own.coordinates))
    return np.arange(len(own.coordinates))[fold::folds] if fold < folds else np.empty(0, np.int64)


def calibrated(router: Router, images: LeftOut, refused: float) -> Router:
    """Return the router with the temperature, the scale of its confidence and the bound that these images ask for.

    refused: the share of them that the bound may refuse.
    """
    temperature = fit_temperature(images.scores, images.tasks, images.weights())
    posterior = softmax(images.scores / temperature)
    # Both parts of the confidence count alike, each in its own deviations. Where tasks are far apart, all images are as certain
    # as can be, and a deviation of next to nothing would make the confidence larger than float32 can tell apart.
    near, certain = (1 / max(float(part.std()), NEXT_TO_NOTHING) for part in (images.nearness, certainty(posterior)))
    router = replace(router, temperature=temperature, trust=(near, certain))
    seeds = ~images.varied  # test images are not turned and zoomed
    confidence = router.confidence(posterior[seeds], images.nearness[seeds])
    return replace(router, confidence_bound=bound(confidence, refused))


def bound(confidence: Array, refused: float) -> float:
    """Return the bound that at most this share of the images is below; with no image below it where they are too few."""
    return float(np.quantile(confidence, refused, method="lower"))


def fit_temperature(scores: Array, tasks: NDArray[np.int64], weights: Array) -> float:
    """Return the temperature under which the own tasks are most probable, of a grid; scores `[n, T]`, weights `[n]`."""
    losses = [float(weights @ _surprise(scores / temperature, tasks)) for temperature in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def _surprise(scores: Array, tasks: NDArray[np.int64]) -> Array:
    top = scores.max(axis=1)
    return np.asarray(np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top - scores[np.arange(len(scores)), tasks])


def calibration_error(probabilities: Array, right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error: of images by probability `[n]`, in 15 bins, how far it is from the share right.

    Guo et al., ICML 2017, section 2. 0 where there are no images.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = [abs(float(probabilities[bins == b].sum() - right[bins == b].sum())) for b in np.unique(bins)]
    return sum(gaps) / max(len(right), 1)
