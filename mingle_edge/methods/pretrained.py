"""The pretrained model for every task: what there was before anything was merged.

Idea: merge nothing. Limitation: it knows of no task what fine-tuning taught. The lower end of every comparison, CLIP's
zero-shot accuracy (arXiv 2103.00020).
"""

from __future__ import annotations

from mingle_edge.comparison.method import Answer, ComparedTask, TestBatch, Workbench
from mingle_edge.methods.towers import backbone_embeddings, tower_bytes


class Pretrained:
    """The backbone answers, whatever was merged."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench

    def add(self, task: ComparedTask) -> None:
        """Nothing changes."""

    def answer(self, batch: TestBatch) -> Answer:
        """The backbone's embeddings."""
        return Answer(backbone_embeddings(batch, self._workbench))

    def answer_named(self, batch: TestBatch, task: str) -> None:
        """There are no routes to choose."""

    def stored_bytes(self) -> int:
        """One tower."""
        return tower_bytes(self._workbench.backbone)

    def active_bytes(self) -> int:
        """One tower."""
        return tower_bytes(self._workbench.backbone)
