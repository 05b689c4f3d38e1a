"""What to expect of a router before it meets an image: what seeds that it has not seen say. numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mingle_edge.routing.calibration import LeftOut, calibrated, calibration_error, left_out
from mingle_edge.routing.router import Router, fit_router, softmax
from mingle_edge.routing.statistics import Array, RouterStatistics

MANY_LOST = 0.1
"""Share of labels that a task is expected to lose to wrong routes from which on a warning says so."""
OFTEN = 0.05
"""Share of a task's images at one other task from which on that task is named."""


@dataclass(frozen=True)
class Outlook:
    """Shares of images of seeds left out, with their variations, under the last stage of the router."""

    tasks: tuple[str, ...]
    routed: Array
    """`[T, T]`, of a task's images by the most probable task"""
    lost: Array
    """`[T]`, of a task's labels that wrong routes are expected to change"""
    lost_plain: Array
    """`[T]`, that the plain backbone changes"""
    calibration_error: tuple[float, float]
    """expected calibration error before and after the temperature"""
    foreign: Array | None
    """`[T]`, of a task's images refused by the router of all other tasks; None of two tasks or fewer"""
    auroc: float | None
    """area under the curve of the confidence, own images against those of the task left out; mean over tasks"""


def outlook(statistics: Sequence[RouterStatistics], tasks: Sequence[str], losses: Array, refused: float) -> Outlook | None:
    """Look ahead from statistics of the last stage's features; None where no task has a seed to spare.

    Args:
        statistics: of each task, of the features that the last stage reads.
        tasks: names.
        losses: `[T, T + 1]`, as in `Cascade`.
        refused: share of own images that may be refused.
    """
    images = left_out(statistics)
    if images is None:
        return None
    router = calibrated(fit_router(statistics), images, refused)
    T, guesses = len(tasks), images.scores.argmax(axis=1)
    counts = np.maximum(np.bincount(images.tasks, minlength=T), 1)
    routed = np.zeros((T, T))
    np.add.at(routed, (images.tasks, guesses), 1 / counts[images.tasks])
    before, after = (
        calibration_error(posterior.max(axis=1), posterior.argmax(axis=1) == images.tasks)
        for posterior in (softmax(images.scores), softmax(images.scores / router.temperature))
    )
    foreign, areas = _foreign(statistics, images, refused) if T > 2 else (None, None)
    return Outlook(
        tasks=tuple(tasks),
        routed=routed,
        lost=(routed * losses[:, :-1]).sum(axis=1),
        lost_plain=losses[:, -1],
        calibration_error=(before, after),
        foreign=foreign,
        auroc=None if areas is None or not len(areas) else float(np.mean(areas)),
    )


def routers_without(statistics: Sequence[RouterStatistics], images: LeftOut, refused: float) -> Iterator[tuple[Router, Array]]:
    """Yield, for each task, the router of all other tasks, and the confidence of their left-out images by which it is bounded.

    `images` are those of the router of all tasks; how near they are is taken from there, which saves fitting it again.
    """
    for task in range(len(statistics)):
        seen = images.without_task(task)
        router = calibrated(fit_router([s for t, s in enumerate(statistics) if t != task]), seen, refused)
        yield router, router.confidence(softmax(seen.scores / router.temperature), seen.nearness)


def _foreign(statistics: Sequence[RouterStatistics], images: LeftOut, refused: float) -> tuple[Array, Array]:
    """Return of each task, once it is left out, the share of its images refused, and the area under the curve `[T]`."""
    shares, areas = [], []
    for own, (router, known) in zip(statistics, routers_without(statistics, images, refused), strict=True):
        if own.coordinates is None:
            continue
        _, unknown = router.posterior(own.images(np.arange(len(own.coordinates))))
        shares.append(float((unknown < router.confidence_bound).mean()))
        areas.append(area_under_curve(known, unknown))
    return np.array(shares), np.array(areas)


def area_under_curve(higher: Array, lower: Array) -> float:
    """Return how often a value of the first is above one of the second, ties half: the area under the ROC curve."""
    ordered = np.sort(lower)
    below, ties = np.searchsorted(ordered, higher), np.searchsorted(ordered, higher, side="right")
    return float((below + ties).mean() / 2 / len(ordered))


def routing_warnings(seen: Outlook) -> list[str]:
    """Return what to do about tasks that lose much to wrong routes, or more than without their expert."""
    warnings = []
    for number, task in enumerate(seen.tasks):
        lost, plain = float(seen.lost[number]), float(seen.lost_plain[number])
        if lost < MANY_LOST and lost <= plain:
            continue
        others = [(share, other) for other, share in enumerate(seen.routed[number]) if other != number and share >= OFTEN]
        where = ", ".join(f"{share:.0%} to {seen.tasks[other]!r}" for share, other in sorted(others, reverse=True)[:3])
        worse = f", more than the {plain:.0%} it would lose on the plain backbone" if lost > plain else ""
        warnings.append(
            f"task {task!r}: {1 - seen.routed[number, number]:.0%} of its seeds, left out, are routed to other tasks"
            f"{f' ({where})' if where else ''}, and {lost:.0%} of its labels change by it{worse}; give more seeds, name the "
            "task when it is known, or put tasks that need not be told apart into one group"
        )
    return warnings
