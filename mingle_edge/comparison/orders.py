"""Task orders of the paper: shuffles seeded by consecutive numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence


def task_orders(tasks: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """`count` orders of the tasks: order i is Python's shuffle of the given list seeded with `seed + i`.

    The rule of arXiv 2505.11883, there with seed 42 and ten orders.
    """
    return [_shuffled(tasks, seed + i) for i in range(count)]


def tuning_order(tasks: Sequence[str], seed: int) -> list[str]:
    """The one order that parameters are tuned on; it is none of `task_orders` by the same seed unless chance repeats it."""
    return _shuffled(tasks, seed - 1)


def _shuffled(tasks: Sequence[str], seed: int) -> list[str]:
    order = list(tasks)
    random.Random(seed).shuffle(order)
    return order
