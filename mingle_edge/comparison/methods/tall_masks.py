"""TALL-masks: the sum of all task vectors once, and of each task one bit an entry: whether it uses it (arXiv 2405.07813).

Idea: tasks mostly change different entries, so the sum still holds each task's own vector; the mask of task t takes the entries
that matter to it more than what the other tasks add there, `|D_t| > threshold |S - D_t|` with S the sum, and the task's
tower is theta_0 + mask S. Limitation: where tasks change the same entries nothing brings their
own values back; and the sum changes with every task, so that all masks are made anew from the fine-tuned models of all tasks.

The authors choose the threshold for each task from 0.2 to 0.6 by its accuracy on validation images; here it is one for all, and
those five values are what tuning tries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.bit_packing import PackedCodes
from mingle_edge.comparison.methods.compressed_models import (
    CompressedTogether,
    ModelsCompressedTogether,
    changed_parameters,
    parameter_bytes,
)
from mingle_edge.experts.finetuned_task import FinetunedTask


@dataclass(frozen=True)
class MaskedSum:
    """What is stored of a task, its masks, beside the sum that all share."""

    masks: Mapping[str, PackedCodes]
    total: Parameters  # whose bytes are none of the task's

    @property
    def nbytes(self) -> int:
        """Return the bytes of the masks."""
        return sum(mask.nbytes for mask in self.masks.values())

    def tower(self, backbone: Parameters) -> Parameters:
        """Return the backbone with the entries of the sum that the task uses."""
        used = {name: mask.codes(backbone[name].device) * self.total[name] for name, mask in self.masks.items()}
        return {**backbone, **{name: backbone[name] + vector for name, vector in used.items()}}


def compress_together(tasks: Sequence[FinetunedTask], workbench: Workbench, *, threshold: float) -> CompressedTogether:
    """Add up the task vectors and mask the sum for each task."""
    backbone, total, masks = workbench.backbone, {}, [dict[str, PackedCodes]() for _ in tasks]
    for name in changed_parameters(tasks, backbone):
        vectors = [task.finetuned[name] - backbone[name] for task in tasks]
        total[name] = sum(vectors[1:], vectors[0])
        for of_task, vector in zip(masks, vectors, strict=True):
            of_task[name] = PackedCodes.of(vector.abs() > threshold * (total[name] - vector).abs(), 1)
    named = {task.name: MaskedSum(of_task, total) for task, of_task in zip(tasks, masks, strict=True)}
    return CompressedTogether(parameter_bytes(total), named)


tall_masks = partial(ModelsCompressedTogether, compress_together)
