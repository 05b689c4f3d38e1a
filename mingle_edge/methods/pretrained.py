"""The pretrained model for every task: what there was before anything was merged.

Idea: merge nothing. Limitation: it knows of no task what fine-tuning taught. The lower end of every comparison, CLIP's
zero-shot accuracy (arXiv 2103.00020).
"""

from __future__ import annotations

from torch import Tensor

from mingle_edge.comparison.method import Answer, ComparedTask, TestBatch, Workbench
from mingle_edge.methods.kept_embeddings import BACKBONE, kept_embeddings, tower_bytes


class Pretrained:
    """The backbone answers, whatever was merged."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench

    def add(self, task: ComparedTask) -> None:
        """Nothing changes."""

    def answer(self, batch: TestBatch) -> Answer:
        """The backbone's embeddings."""
        return Answer(kept_embeddings(self._workbench, batch, BACKBONE, self._workbench.backbone))

    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """As `answer`: there are no routes, so P1 = P2."""
        return self.answer(batch).embeds

    def stored_bytes(self) -> int:
        """One tower."""
        return tower_bytes(self._workbench.backbone)

    def active_bytes(self) -> int:
        """One tower."""
        return tower_bytes(self._workbench.backbone)
