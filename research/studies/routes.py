"""Where the router sends the images of every task, and how much is right along those routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.cascade import Cascade, Decisions, LargestLogits, decide
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.router import Router
from research.studies.tables import percent

BACKBONE = -1
"""In place of a task's number: no expert."""
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Route:
    """What the router says of n images of one task."""

    posterior: Floats  # [n, T]
    confidence: Floats  # [n]
    answering: NDArray[np.int64]  # [n], the expert that answers; BACKBONE where the plain backbone does
    stage: NDArray[np.int64]  # [n], number of the stage that settled an image; one more than the last: experts were judged


def route(
    cascade: Cascade, layout: Layout, features: Sequence[AnyFloats], judges: Sequence[LargestLogits] | None = None
) -> list[Route]:
    """Return per task where a cascade sends its images, of all their features; without `judges`, one a task, none is asked."""
    cascade = cascade if judges is not None else cascade.without_judge()
    columns = layout.of_stages(cascade)
    asked = judges if judges is not None else [_nobody] * len(features)
    found = [
        decide(cascade, [of_task[:, own].astype(np.float64) for own in columns], run)
        for of_task, run in zip(features, asked, strict=True)
    ]
    return [_route(of_task, len(cascade.losses)) for of_task in found]


def _route(decided: Decisions, tasks: int) -> Route:
    answering = np.where(decided.choice < tasks, decided.choice, BACKBONE)
    return Route(decided.posterior, decided.confidence, answering, decided.stage)


def _nobody(numbers: NDArray[np.int64], tasks: NDArray[np.int64]) -> Floats:
    raise AssertionError("a cascade without a judge runs no expert")


def route_alone(router: Router, features: Sequence[AnyFloats]) -> list[Route]:
    """Return per task where one router sends its images `[n, F]`: to the most probable task, if they are claimed."""
    routes = []
    for of_task in features:
        posterior, confidence = router.posterior(of_task.astype(np.float64))
        answering = np.where(confidence >= router.confidence_bound, posterior.argmax(axis=1), BACKBONE)
        routes.append(Route(posterior, confidence, answering, np.zeros(len(of_task), np.int64)))
    return routes


def picked(table: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Return of each row of a table `[n, m]` the value in its own column, `[n]`."""
    return np.asarray(table[np.arange(len(table)), columns])


def own_route(routes: Sequence[Route]) -> float:
    """Return images routed to their own task, mean over tasks in percent."""
    return percent([np.mean(of_task.answering == task) for task, of_task in enumerate(routes)])


def p1(correct: Sequence[Bools], routes: Sequence[Route]) -> float:
    """Return ACC of top-1 in percent when the head is given and the route is not."""
    return percent([picked(right, r.answering).mean() for right, r in zip(correct, routes, strict=True)])


def p2(correct: Sequence[Bools]) -> float:
    """Return ACC in percent when head and task are given."""
    return percent([right[:, task].mean() for task, right in enumerate(correct)])
