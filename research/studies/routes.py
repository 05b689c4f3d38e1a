"""Where the router sends the images of every task, and how much is right along those routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.router import Router
from research.studies.study import BACKBONE, AnyFloats, Bools, Floats
from research.studies.tables import percent

Route = tuple[Floats, Bools]
"""posterior [n, T], claimed [n]"""


def route(router: Router, features: Sequence[AnyFloats]) -> list[Route]:
    """Return per task where the router sends its images."""
    routes = [router.posterior(of_task[:, : len(router.weight)].astype(np.float64)) for of_task in features]
    return [(posterior, confidence >= router.confidence_bound) for posterior, confidence in routes]


def answering(route: Route) -> NDArray[np.int64]:
    """Return the expert that answers for each image `[n]`, top-1; BACKBONE where no task claims it."""
    posterior, claimed = route
    return np.where(claimed, posterior.argmax(axis=1), BACKBONE)


def picked(table: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Return of each row of a table `[n, m]` the value in its own column, `[n]`."""
    return np.asarray(table[np.arange(len(table)), columns])


def own_route(routes: Sequence[Route]) -> float:
    """Return images routed to their own task, mean over tasks in percent."""
    return percent([np.mean(answering(of_task) == task) for task, of_task in enumerate(routes)])


def p1(correct: Sequence[Bools], routes: Sequence[Route]) -> float:
    """Return ACC of top-1 in percent when the head is given and the route is not."""
    return percent([picked(right, answering(r)).mean() for right, r in zip(correct, routes, strict=True)])


def p2(correct: Sequence[Bools]) -> float:
    """Return ACC in percent when head and task are given."""
    return percent([right[:, task].mean() for task, right in enumerate(correct)])
