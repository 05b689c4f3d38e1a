"""One tower for all tasks, theta_0 + m, whose merged task vector m a rule brings up to date with each task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from mingle_edge.comparison.method import Answer, ComparedTask, TestBatch, Workbench
from mingle_edge.methods.towers import backbone_embeddings, tower_bytes, unit_embeddings
from mingle_edge.vision_tower import Parameters

Memory = TypeVar("Memory")


class MergedTower(Generic[Memory]):
    """A static merge as a continual method: the same weights answer for every image, so P1 = P2.

    `merge(memory, task_vector, count)` gives the memory after the task with this number, counted from 1, from the memory
    before it (None before the first); `vector(memory)` is its merged task vector. The memory is all that is kept of earlier
    tasks. Every parameter of the tower is merged: biases, LayerNorms and the stem as well as linear weights.
    """

    def __init__(
        self,
        workbench: Workbench,
        merge: Callable[[Memory | None, Parameters, int], Memory],
        vector: Callable[[Memory], Parameters],
    ) -> None:
        self._workbench = workbench
        self._merge = merge
        self._vector = vector
        self._memory: Memory | None = None
        self._count = 0
        self._tower = workbench.backbone

    def add(self, task: ComparedTask) -> None:
        """Merge the task's difference from the backbone."""
        backbone = self._workbench.backbone
        self._tower = backbone  # the tower before this task need not be in memory while it is merged
        self._count += 1
        task_vector = {name: task.finetuned[name] - value for name, value in backbone.items()}
        self._memory = self._merge(self._memory, task_vector, self._count)
        del task_vector
        merged = self._vector(self._memory)
        self._tower = {name: value + merged[name] for name, value in backbone.items()}

    def answer(self, batch: TestBatch) -> Answer:
        """Embeddings under the merged tower; before the first task those of the pretrained model."""
        if not self._count:
            return Answer(backbone_embeddings(batch, self._workbench))
        return Answer(unit_embeddings(batch.images, self._tower, self._workbench))

    def answer_named(self, batch: TestBatch, task: str) -> None:
        """There are no routes to choose."""

    def stored_bytes(self) -> int:
        """One tower, however many tasks."""
        return tower_bytes(self._workbench.backbone)

    def active_bytes(self) -> int:
        """One tower."""
        return tower_bytes(self._workbench.backbone)
