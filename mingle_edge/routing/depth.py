"""How many blocks the image router reads: the fewest that route seeds as well, each judged by the others. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mingle_edge.routing.layout import Layout
from mingle_edge.routing.leave_one_out import can_leave, left_out_scores
from mingle_edge.routing.statistics import Array, RouterStatistics

DEEPEST = 3  # blocks that statistics are taken of, where the depth is to be chosen


def deepest(router_blocks: int | Literal["auto"], layers: int) -> int:
    """Return the blocks that statistics are taken of, in a tower of so many layers."""
    return min(DEEPEST, layers) if router_blocks == "auto" else router_blocks


def choose_depth(statistics: Sequence[RouterStatistics], layout: Layout) -> int | None:
    """Return the fewest blocks that route left-out seeds as well as the best, as far as they can tell; None: pixels alone.

    That is, the difference of their errors is at most its standard error: a one-standard-error rule (Breiman, Friedman,
    Olshen, Stone, "Classification and Regression Trees", 1984, section 3.4.3) on differences, as all are tried on the same
    seeds. Where no task has two seeds, nothing tells that less would do, and it is the deepest.
    """
    if not any(can_leave(s) for s in statistics):
        return layout.depths - 1
    choices: list[int | None] = [None, *range(layout.depths)]
    errors = [left_out_errors([s.columns(layout.columns(blocks)) for s in statistics]) for blocks in choices]
    best = min(errors, key=lambda shares: mean_of_tasks(shares)[0])
    worse = [mean_of_tasks([a - b for a, b in zip(shares, best, strict=True)]) for shares in errors]
    return next(blocks for blocks, (difference, error) in zip(choices, worse, strict=True) if difference <= error)


def left_out_errors(statistics: Sequence[RouterStatistics]) -> list[Array]:
    """Return, for each task with at least two seeds, of k of its seeds `[k]`: the share of its images routed to another task.

    Its images are the seed and its variations, and the router has seen none of them.
    """
    return [(scores.argmax(axis=2) != task).mean(axis=1) for task, scores in left_out_scores(statistics)]


def mean_of_tasks(values: Sequence[Array]) -> tuple[float, float]:
    """Return the mean over tasks of the mean over seeds of values `[k]` per task, and its standard error."""
    variance = sum(float(of_task.var(ddof=1)) / len(of_task) for of_task in values)
    return float(np.mean([of_task.mean() for of_task in values])), math.sqrt(variance) / len(values)
