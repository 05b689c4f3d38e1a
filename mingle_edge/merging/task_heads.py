"""Choosing each task's head: its file, the classifier of its checkpoint, or its class names through a text tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mingle_edge.checkpoints import Checkpoint
from mingle_edge.checkpoints.class_embeddings import TextTower, class_embeddings
from mingle_edge.checkpoints.classifier import has_classifier, read_classifier
from mingle_edge.checkpoints.head_file import read_head
from mingle_edge.checkpoints.text_tower import CLIP_LOGIT_SCALE, build_text_tower, logit_scale
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.core.errors import CheckpointError, TaskFileError
from mingle_edge.data.hub import local_path
from mingle_edge.data.task_file import DEFAULT_TEMPLATES, BackboneSource, TaskSource
from mingle_edge.data.weights_folder import HUGGING_FACE_CONFIG

FILE = "file"
CLASSIFIER = "classifier of the checkpoint"
TASK_TEXT = "text tower of the task"
BACKBONE_TEXT = "text tower of the backbone"
FROM_TEXT = (TASK_TEXT, BACKBONE_TEXT)


@dataclass(frozen=True)
class TaskHeads:
    """Reads heads for one backbone, whose text tower is built when the first task needs it, and let go with this object."""

    backbone: BackboneSource
    architecture: VisionArchitecture
    base: Path

    @cached_property
    def logit_scale(self) -> float:
        """Return that of the backbone; CLIP's 100 where it has none."""
        return logit_scale(self.backbone.model, self.backbone.weights, self.base) or CLIP_LOGIT_SCALE

    def read(self, task: TaskSource, checkpoint: Checkpoint) -> tuple[Head, str]:
        """Return the head of a task, and what it came from.

        A head in the task file comes first, then a classifier in the checkpoint. Else it is computed from the class names, by
        the text tower of a checkpoint that holds one, with the logit scale that was fine-tuned with it, or by the backbone's.

        Raises:
            CheckpointError, TaskFileError: of the parts.
        """
        if task.head is not None:
            return read_head(task.head, task.classes, self.architecture, self._scale(task, checkpoint)), FILE
        if has_classifier(checkpoint):
            if task.templates != list(DEFAULT_TEMPLATES):
                raise TaskFileError(
                    f"task {task.name!r} has templates, but {checkpoint.path} holds a classifier, which needs none; remove "
                    "them, or give the task a head"
                )
            return read_classifier(checkpoint, task.classes, self.architecture), CLASSIFIER
        if not self.architecture.normalized:
            raise CheckpointError(
                f"{checkpoint.path}: an image classifier has no text tower that could make a head of class names, and there is "
                f"no classifier (classifier.weight, head.weight or fc.weight) in it; give task {task.name!r} a head"
            )
        if not checkpoint.has_text_tower:
            head = self.of_backbone(task.classes, task.templates)
            return replace(head, logit_scale=self._scale(task, checkpoint)), BACKBONE_TEXT
        text = build_text_tower(*self._whole(task), self.base, checkpoint.stored)
        return Head(class_embeddings(text, task.classes, task.templates), None, self._scale(task, checkpoint)), TASK_TEXT

    def of_backbone(self, classes: Sequence[str], templates: Sequence[str]) -> Head:
        """Return the head that the backbone's text tower makes of class names. Raises `CheckpointError`, `TaskFileError`."""
        return Head(class_embeddings(self._text_tower, classes, templates), None, self.logit_scale)

    @cached_property
    def _text_tower(self) -> TextTower:
        return build_text_tower(self.backbone.model, self.backbone.weights, self.base)

    def _scale(self, task: TaskSource, checkpoint: Checkpoint) -> float:
        """Return the logit scale that a task's own checkpoint holds, or the backbone's."""
        return logit_scale(*self._whole(task), self.base, checkpoint.stored) or self.logit_scale

    def _whole(self, task: TaskSource) -> tuple[str, str | None]:
        """Return what describes the whole model of a task, and its weights: its own configuration where it has one."""
        if (local_path(task.weights, self.base) / HUGGING_FACE_CONFIG).is_file():
            return task.weights, None
        return self.backbone.model, task.weights
