"""Whole towers: embeddings under one, those of the pretrained one kept for all methods, and methods that end in one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.evaluation.answers import Answers


class OneTower:
    """One set of weights that answers for every image, so that it makes no difference whether the task is told."""

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench
        self.tower: Parameters = workbench.backbone

    def answer(self, batch: TestBatch) -> Answers:
        """Embed a batch; before the first task with the pretrained model."""
        if self.tower is self.workbench.backbone:
            return Answers(backbone_embeddings(batch, self.workbench))
        return Answers(self.workbench.embed(batch.images, self.tower))

    def answer_named(self, batch: TestBatch, task: str) -> None:
        """Leave it at P1: there are no routes to choose."""

    def stored_bytes(self) -> int:
        """Return the bytes of one tower, however many tasks."""
        return tower_bytes(self.workbench.backbone)

    def active_bytes(self) -> int:
        """Count all that is stored: nothing is left out for any image."""
        return self.stored_bytes()

    def bytes_per_task(self) -> int:
        """Return 0: a task adds nothing to one set of weights."""
        return 0


def embed_by_task(batch: TestBatch, tasks: Tensor, embed: Callable[[int, list[int]], Tensor], workbench: Workbench) -> Tensor:
    """Return embeddings `[n, output_dim]` of images under the task that each is given to, `tasks [n]`.

    `embed` takes a task's number and places in the batch; -1 is the plain backbone.
    """
    embeds = torch.empty(len(tasks), workbench.architecture.output_dim, device=workbench.device)
    for task in sorted(set(tasks.tolist())):
        places = (tasks == task).nonzero().flatten().tolist()
        embeds[places] = embed(task, places) if task >= 0 else backbone_embeddings(batch, workbench, places)
    return embeds


def backbone_embeddings(batch: TestBatch, workbench: Workbench, places: list[int] | None = None) -> Tensor:
    """Return the pretrained model's embeddings `[n, output_dim]` of images at these places of the batch, or of all; kept."""
    return workbench.kept.rows.of("backbone", batch, workbench.embed, places)


def tower_bytes(parameters: Parameters) -> int:
    """Return what one tower takes at 4 bytes a parameter."""
    return 4 * sum(value.numel() for value in parameters.values())
