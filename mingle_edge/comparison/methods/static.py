"""The peers that end in one set of weights, theta_0 + m, whose merged task vector m a rule brings up to date with each task.

The simple rules are here, the others in files of their own. A rule `merge(memory, task_vector, count, **parameters)` gives the
memory after the task with this number, counted from 1, from the memory before it (None before the first). The memory is all
that is kept of earlier tasks: the merged task vector itself, or an object that has it as `merged`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods import consensus, opcm, ties
from mingle_edge.comparison.methods.towers import OneTower
from mingle_edge.experts.finetuned_task import FinetunedTask


class MergedTower(OneTower):
    """A static merge as a continual method; biases, LayerNorms and the stem are merged as well as linear weights."""

    def __init__(self, merge: Callable[..., Any], workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        super().__init__(workbench)
        self._merge = partial(merge, **parameters)
        self._memory: Any = None
        self._count = 0

    def add(self, task: FinetunedTask) -> None:
        """Merge the task's difference from the backbone."""
        backbone = self.workbench.backbone
        self.tower = backbone  # the tower before this task need not be in memory while it is merged
        self._count += 1
        task_vector = {name: task.finetuned[name] - value for name, value in backbone.items()}
        self._memory = self._merge(self._memory, task_vector, self._count)
        del task_vector
        merged: Parameters = self._memory if isinstance(self._memory, Mapping) else self._memory.merged
        self.tower = {name: value + merged[name] for name, value in backbone.items()}


def average(merged: Parameters | None, task_vector: Parameters, count: int) -> Parameters:
    """Return m_t = ((t - 1) m_{t-1} + D_t) / t: weight averaging.

    Idea: models fine-tuned from one pretrained model lie in one basin of the loss, so their mean is a model too (model soups,
    arXiv 2203.05482). Limitation: every task vector shrinks to 1/T of itself, so with many tasks the mean returns to the
    pretrained model; conflicting changes cancel.
    """
    if merged is None:
        return dict(task_vector)
    return {name: (merged[name] * (count - 1) + difference) / count for name, difference in task_vector.items()}


def add_scaled(merged: Parameters | None, task_vector: Parameters, count: int, scaling: float) -> Parameters:
    """Return m_t = m_{t-1} + scaling D_t, with m_0 = 0: task arithmetic.

    Idea: a task vector, fine-tuned minus pretrained weights, adds its task's ability wherever it is added (arXiv 2212.04089).
    Limitation: one scaling for all tasks, fixed beforehand although the sum grows with every task: too small for few tasks, too
    large for many. Task vectors that overlap interfere.
    """
    if merged is None:
        return {name: scaling * difference for name, difference in task_vector.items()}
    return {name: merged[name] + scaling * difference for name, difference in task_vector.items()}


def keep_largest(merged: Parameters | None, task_vector: Parameters, count: int, scaling: float) -> Parameters:
    """Return the larger in magnitude of m_{t-1} and scaling D_t, entry by entry, the newer where they are equal: MagMax.

    Idea: large changes matter and small ones are noise, so each entry of the merged vector is the task vector's of largest
    magnitude, scaled (arXiv 2407.06322). Limitation: neighboring entries of one layer come from different tasks, so no
    task's layer is there as a whole, and with more tasks ever less of each. The authors fine-tune each task from the last one;
    merging models fine-tuned independently is their ablation and what is done here.
    """
    scaled = {name: scaling * difference for name, difference in task_vector.items()}
    if merged is None:
        return scaled
    return {name: torch.where(new.abs() >= merged[name].abs(), new, merged[name]) for name, new in scaled.items()}


weight_averaging = partial(MergedTower, average)
task_arithmetic = partial(MergedTower, add_scaled)
magmax = partial(MergedTower, keep_largest)
ties_merging = partial(MergedTower, ties.merge)
ties_as_published = partial(MergedTower, ties.merge_as_published)
consensus_arithmetic = partial(MergedTower, consensus.merge)
consensus_as_published = partial(MergedTower, consensus.merge_as_published)
projected_sum = partial(MergedTower, opcm.merge)
projected_sum_as_published = partial(MergedTower, partial(opcm.merge, as_published=True))
