"""Consensus task arithmetic: the scaled sum of all task vectors, only in entries that enough tasks rely on.

Idea: an entry of the sum serves a task when the task's own change there outweighs what the others add; entries that fewer
than `required` tasks use are "selfish" or "catastrophic" and better left at their pretrained value (arXiv 2405.07813).
Limitation: the scaling of task arithmetic, and a threshold that has to be chosen. Continually a task's use of an entry can
be judged only when the task arrives, against the tasks before it; the authors judge it against the sum of all.

As the MINGLE paper ran it (zihuanqiu/MINGLE, `consensus_ta.py`), the mask of earlier tasks is taken to be all ones, so the
newest task alone decides; the newest vector is compared and summed at full size with a merged vector that is scaled; and the
masked sum, which contains the merged vector, is *added to* the merged vector, so that earlier tasks count more with each
step. `merge_as_published` is that. `merge` counts for each entry how many tasks used it on arrival and masks the unscaled sum
by that count, so it keeps two things: the sum, and one byte for each parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mingle_edge.clip.vision_tower import Parameters


@dataclass(frozen=True)
class Agreement:
    """What is kept of the tasks so far."""

    total: Parameters  # the sum of their task vectors
    uses: Parameters  # uint8: how many of them used the entry, counted up to what is required
    needed: int  # uses that make an entry count now: those required, or the number of tasks while that is smaller
    scaling: float

    @property
    def merged(self) -> Parameters:
        """Return the merged task vector: the scaled sum where enough tasks use it, 0 elsewhere."""
        return {n: torch.where(self.uses[n] >= self.needed, self.scaling * value, 0) for n, value in self.total.items()}


def merge(
    memory: Agreement | None, task_vector: Parameters, count: int, scaling: float, threshold: float, required: int
) -> Agreement:
    """Return S_t = S_{t-1} + D_t and uses_t = uses_{t-1} + [|D_t| > threshold |S_{t-1}|], with S_0 = 0; `merged` masks S_t."""
    needed = min(required, count)
    if memory is None:
        uses = {name: (difference != 0).to(torch.uint8) for name, difference in task_vector.items()}
        return Agreement(dict(task_vector), uses, needed, scaling)
    total = {name: memory.total[name] + difference for name, difference in task_vector.items()}
    uses = {
        name: (memory.uses[name] + (difference.abs() > threshold * memory.total[name].abs())).clamp_max(required)
        for name, difference in task_vector.items()
    }
    return Agreement(total, uses, needed, scaling)


def merge_as_published(
    merged: Parameters | None, task_vector: Parameters, count: int, scaling: float, threshold: float
) -> Parameters:
    """Return m_1 = scaling D_1, then m_t = m_{t-1} + scaling [|D_t| > threshold |m_{t-1}|] (m_{t-1} + D_t)."""
    if merged is None:
        return {name: scaling * difference for name, difference in task_vector.items()}
    return {
        name: torch.where(
            difference.abs() > threshold * merged[name].abs(),
            merged[name] + scaling * (merged[name] + difference),
            merged[name],
        )
        for name, difference in task_vector.items()
    }
