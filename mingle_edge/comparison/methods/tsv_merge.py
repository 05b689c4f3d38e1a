"""TSV-Merge: the leading singular components of all tasks, made orthogonal to one another and summed (arXiv 2412.00081).

Idea: tasks disturb each other where their singular vectors overlap. Of each task's matrix one in T of the components is kept,
so that all of them fit into one matrix; their singular vectors, side by side, are replaced by the nearest orthonormal ones.
Limitation: one set of weights; with many tasks few directions are left to each, and made orthogonal they are no
longer its own.

Taking one task after another, the components of every task so far are kept where models are merged (one in T of each, so in
all about as much as two towers), not on the device, and the sum is made anew with each task: the result is that of all tasks
at once.
As in the authors' code (AntoAndGar/task_singular_vectors, `TSVM_utils.py`) positions are a matrix, and the patch embedding, a
convolution there, is averaged like all vectors. q, k and v are three matrices, where theirs have one. The projection is one
more; their code leaves out only the text tower's. They add the sum to the pretrained weights in full: scaling 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.methods.singular_components import TaskComponents, merged
from mingle_edge.comparison.methods.static import MergedTower


@dataclass(frozen=True)
class SingularSum:
    """What is kept of the tasks so far."""

    tasks: tuple[TaskComponents, ...]
    merged: Parameters


def merge(memory: SingularSum | None, task_vector: Parameters, count: int, scaling: float) -> SingularSum:
    """Return the components of one more task with those of the others, one in `count` of each, and their scaled sum."""
    earlier = () if memory is None else memory.tasks
    tasks = tuple(task.shared_among(count) for task in (*earlier, TaskComponents.of(task_vector)))
    return SingularSum(tasks, {name: scaling * value for name, value in merged(tasks).items()})


tsv_merge = partial(MergedTower, merge)
