"""Each task's own fine-tuned model for the task's images: what merging is measured against.

Idea: merge nothing and keep every model. Limitation: it must be told which task an image belongs to, and T tasks take the
memory of T towers. The upper end of every comparison, not a method one could deploy without that knowledge.
"""

from __future__ import annotations

from torch import Tensor

from mingle_edge.comparison.method import Answer, ComparedTask, TestBatch, Workbench
from mingle_edge.methods.image_rows import ImageRows
from mingle_edge.methods.towers import backbone_embeddings, tower_bytes, unit_embeddings
from mingle_edge.vision_tower import Parameters


class Individual:
    """Every batch is answered by the model of the batch's task, in P1 and P3 too."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench
        self._towers: dict[str, Parameters] = {}

    def add(self, task: ComparedTask) -> None:
        """Keep the task's model as it is."""
        self._towers[task.name] = task.finetuned

    def answer(self, batch: TestBatch) -> Answer:
        """The embeddings of the batch's own model; of the backbone where its task has not been added yet."""
        if batch.task in self._towers:
            return Answer(self.answer_named(batch, batch.task))
        return Answer(backbone_embeddings(batch, self._workbench))

    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """Embeddings `[n, output_dim]` under the model of a task that was added."""
        rows = ImageRows.shared(self._workbench.kept)
        return rows.of(("own model", task), batch, lambda images: unit_embeddings(images, self._towers[task], self._workbench))

    def stored_bytes(self) -> int:
        """A tower for each task; the backbone alone before the first."""
        return max(len(self._towers), 1) * self.active_bytes()

    def active_bytes(self) -> int:
        """One tower."""
        return tower_bytes(self._workbench.backbone)
