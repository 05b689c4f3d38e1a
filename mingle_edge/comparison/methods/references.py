"""What merging is measured against: the pretrained model for every task, and each task's own fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.towers import OneTower, backbone_embeddings, tower_bytes
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.finetuned_task import FinetunedTask


class Pretrained(OneTower):
    """The pretrained model for every task: what there was before anything was merged.

    Idea: merge nothing. Limitation: it knows of no task what fine-tuning taught. The lower end of every comparison, CLIP's
    zero-shot accuracy (arXiv 2103.00020).
    """

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Take no parameters."""
        super().__init__(workbench)

    def add(self, task: FinetunedTask) -> None:
        """Change nothing."""


class Individual:
    """Each task's own fine-tuned model for the task's images, in P1 and P3 too.

    Idea: merge nothing and keep every model. Limitation: it must be told which task an image belongs to, and T tasks take the
    memory of T towers. The upper end of every comparison, not a method one could deploy without that knowledge.
    """

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Take no parameters."""
        self._workbench = workbench
        self._towers: dict[str, Parameters] = {}

    def add(self, task: FinetunedTask) -> None:
        """Keep the task's model as it is."""
        self._towers[task.name] = task.finetuned

    def answer(self, batch: TestBatch) -> Answers:
        """Embed a batch with its own model; with the backbone where its task has not been added yet."""
        if batch.task in self._towers:
            return Answers(self.answer_named(batch, batch.task))
        return Answers(backbone_embeddings(batch, self._workbench))

    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """Return embeddings `[n, output_dim]` under the model of a task that was added."""
        return self._workbench.kept.rows.of(
            ("own model", task), batch, lambda images: self._workbench.embed(images, self._towers[task])
        )

    def stored_bytes(self) -> int:
        """Return the bytes of a tower for each task; of the backbone alone before the first."""
        return max(len(self._towers), 1) * self.active_bytes()

    def active_bytes(self) -> int:
        """Return the bytes of one tower."""
        return tower_bytes(self._workbench.backbone)

    def bytes_per_task(self) -> int:
        """Return the bytes of one tower."""
        return self.active_bytes()
