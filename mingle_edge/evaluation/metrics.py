"""Metrics of continual merging, from accuracies right after each task's own merge and after the last one."""

from __future__ import annotations

from collections.abc import Sequence


def average_accuracy(final: Sequence[float]) -> float:
    """Return ACC: the mean over tasks of the accuracy after the last merge, in the unit given."""
    return sum(final) / len(final)


def backward_transfer(after_own: Sequence[float], final: Sequence[float]) -> float:
    """Return BWT: the mean over all tasks but the last of final accuracy minus accuracy right after the task's own merge.

    Negative means forgetting; 0 for a single task.
    """
    changes = [end - own for own, end in zip(after_own[:-1], final[:-1], strict=True)]
    return sum(changes) / len(changes) if changes else 0.0


def forward_transfer(coming: Sequence[float], pretrained: Sequence[float]) -> float:
    """Return FWT: the mean over all tasks but the first of accuracy just before the own merge minus the pretrained model's.

    Lopez-Paz and Ranzato, arXiv 1706.08840, eq. 4. Positive means that what was merged before helps; 0 for a single task.
    """
    changes = [now - before for now, before in zip(coming[1:], pretrained[1:], strict=True)]
    return sum(changes) / len(changes) if changes else 0.0
