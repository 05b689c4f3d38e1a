"""Weight averaging: the running mean of all fine-tuned models.

Idea: models fine-tuned from one pretrained model lie in one basin of the loss, so their mean is a model too (model soups,
arXiv 2203.05482). Limitation: every task vector shrinks to 1/T of itself, so with many tasks the mean returns to the
pretrained model; conflicting changes cancel.
"""

from __future__ import annotations

from mingle_edge.vision_tower import Parameters


def merge(merged: Parameters | None, task_vector: Parameters, count: int) -> Parameters:
    """m_t = ((t - 1) m_{t-1} + D_t) / t, for the task with number t = `count`, counted from 1."""
    if merged is None:
        return dict(task_vector)
    return {name: (merged[name] * (count - 1) + difference) / count for name, difference in task_vector.items()}
