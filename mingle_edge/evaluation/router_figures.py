"""How a router does on labeled test images: its stages, its honesty, and what it refuses. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.calibration import calibration_error
from mingle_edge.routing.cascade import Cascade
from mingle_edge.routing.outlook import area_under_curve
from mingle_edge.routing.statistics import Array

JUDGED = "experts"
"""The stage behind the last one, where experts are judged."""


@dataclass(frozen=True)
class RoutedImages:
    """What the router of all tasks says of one task's test images, and that of all others."""

    task: int
    posterior: Array  # [n, T]
    confidence: Array  # [n]
    stage: NDArray[np.int64]  # [n]
    foreign: Array | None  # [n], confidence by the router of all other tasks
    refused: float | None  # share of them that it refuses
    plain: float  # P1 of the plain backbone, percent


@dataclass(frozen=True)
class RouterReport:
    """Figures of a router on the test images of all tasks, each task weighing the same; percent unless said otherwise."""

    stages: dict[str, float]
    """images that were settled by each stage, and by judging experts"""
    calibration_error: dict[str, float]
    """expected calibration error of the posterior as the discriminants give it, and as it is"""
    foreign_refused: dict[str, float]
    """of each task's images, refused by the router of all other tasks; empty of two tasks or fewer"""
    foreign_auroc: float | None
    """how often an own image is more confident than one of a task left out, 0 to 1"""
    plain: dict[str, float]
    """P1 of the plain backbone by task"""


def router_report(cascade: Cascade, tasks: Sequence[str], images: Sequence[RoutedImages]) -> RouterReport:
    """Sum up what a cascade says of the test images of its tasks."""
    names = [*(stage.name for stage in cascade.stages), JUDGED]
    settled = np.mean([np.bincount(of_task.stage, minlength=len(names)) / len(of_task.stage) for of_task in images], axis=0)
    temperatures = np.array([stage.router.temperature for stage in cascade.stages])
    right = np.concatenate([of_task.posterior.argmax(axis=1) == of_task.task for of_task in images])
    own = np.concatenate([of_task.confidence for of_task in images])
    raw = np.concatenate([_raw(of_task, temperatures) for of_task in images])
    honest = np.concatenate([of_task.posterior.max(axis=1) for of_task in images])
    strangers = [of_task.foreign for of_task in images if of_task.foreign is not None]
    return RouterReport(
        stages={name: 100 * float(share) for name, share in zip(names, settled, strict=True) if name != JUDGED or share},
        calibration_error={
            "uncalibrated": 100 * calibration_error(raw, right),
            "calibrated": 100 * calibration_error(honest, right),
        },
        foreign_refused={tasks[of.task]: 100 * of.refused for of in images if of.refused is not None},
        foreign_auroc=area_under_curve(own, np.concatenate(strangers)) if strangers else None,
        plain={tasks[of_task.task]: of_task.plain for of_task in images},
    )


def _raw(images: RoutedImages, temperatures: Array) -> Array:
    """Return the largest probability `[n]` that the discriminants gave before the temperature of the stage."""
    last = np.minimum(images.stage, len(temperatures) - 1)
    scores = np.log(np.maximum(images.posterior, np.finfo(np.float64).tiny)) * temperatures[last][:, None]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(1 / shares.sum(axis=1))
