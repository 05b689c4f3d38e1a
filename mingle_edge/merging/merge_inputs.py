"""All inputs of a merge, found, opened and checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mingle_edge.checkpoints import Checkpoint, check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.checkpoints.class_names import with_class_names
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.core.errors import TaskFileError
from mingle_edge.core.progress import WARNING, Progress
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.labeled_images import read_calibration_images
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import TaskFile, TaskSource
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.merging.task_heads import FROM_TEXT, TaskHeads
from mingle_edge.merging.task_warnings import settings_warnings

KEPT_BYTES = 1 << 30  # of a task's preprocessed calibration images, which every step of adaptation reads


@dataclass(frozen=True)
class TaskInputs:
    """One task whose checkpoint, calibration images and head have been read and found fit."""

    source: TaskSource
    checkpoint: Checkpoint
    sha256: str
    calibration_images: ImageSet
    head: Head
    head_source: str  # what it came from, in words

    @property
    def templates(self) -> list[str]:
        """Return those that its head was made with; none where it was not made of class names."""
        return self.source.templates if self.head_source in FROM_TEXT else []

    def load(self, pretrained: PretrainedModel) -> FinetunedTask:
        """Read the fine-tuned tower onto the backbone's device. Raises `CheckpointError` where the file cannot be read."""
        finetuned = {name: tensor.to(pretrained.device) for name, tensor in self.checkpoint.tensors()}
        # A vision-only checkpoint may lack the projection: it was trained under the backbone's.
        finetuned = dict(pretrained.backbone) | finetuned
        layers = pretrained.architecture.linear_layers()
        known = {layer: factors for layer in layers if (factors := self.checkpoint.factors(layer)) is not None}
        return FinetunedTask(
            self.source.name,
            finetuned,
            self.head.to(pretrained.device),
            self.calibration_images.kept(KEPT_BYTES),
            {layer: (B.to(pretrained.device), A.to(pretrained.device)) for layer, (B, A) in known.items()},
        )


@dataclass(frozen=True)
class MergeInputs:
    """The backbone and every task of a task file."""

    architecture: VisionArchitecture
    settings: Settings
    backbone: Checkpoint
    backbone_sha256: str
    backbone_source: str
    logit_scale: float
    tasks: list[TaskInputs]

    def load(self, device: torch.device) -> PretrainedModel:
        """Read the pretrained tower onto a device. Raises `CheckpointError` where the file cannot be read."""
        backbone = {name: tensor.to(device) for name, tensor in self.backbone.tensors()}
        return PretrainedModel(backbone, self.architecture, device)


def read_merge_inputs(tasks: TaskFile, progress: Progress) -> MergeInputs:
    """Check everything a task file names: architecture, names, shapes, finite values, images, heads; and return it.

    Each checkpoint is read once, tensor by tensor. Raises the errors of the parts, before anything is written.
    """
    tasks = with_class_names(tasks)
    base = tasks.path.parent
    settings = Settings.from_mapping(tasks.settings, f"{tasks.path}: [settings]")
    architecture = read_architecture(tasks.backbone.model, base, tasks.backbone.weights)
    check_router_blocks(tasks.path, settings, architecture)
    for warning in settings_warnings(settings, architecture.width):
        progress(WARNING, 1, 1, warning)
    calibration_images = [read_calibration_images(task, base, settings.seed, progress) for task in tasks.tasks]
    check_images([path for images in calibration_images for path in images.paths], progress)
    source = tasks.backbone.weights or tasks.backbone.model
    backbone = open_checkpoint(source, base=base, architecture=architecture, model=tasks.backbone.model)
    checkpoints = [open_checkpoint(t.weights, base=base, architecture=architecture, backbone=backbone) for t in tasks.tasks]
    for done, checkpoint in enumerate([backbone, *checkpoints]):
        progress("check", done, len(checkpoints) + 1, Path(checkpoint.path).name)
        check_checkpoint(checkpoint, architecture, backbone=checkpoint is backbone)
    progress("check", len(checkpoints) + 1, len(checkpoints) + 1)
    heads = TaskHeads(tasks.backbone, architecture, base)
    read = [heads.read(task, checkpoint) for task, checkpoint in zip(tasks.tasks, checkpoints, strict=True)]
    return MergeInputs(
        architecture=architecture,
        settings=settings,
        backbone=backbone,
        backbone_sha256=backbone.sha256(),
        backbone_source=source,
        logit_scale=heads.logit_scale,
        tasks=[
            TaskInputs(task, checkpoint, checkpoint.sha256(), images, *head)
            for task, checkpoint, images, head in zip(tasks.tasks, checkpoints, calibration_images, read, strict=True)
        ],
    )


def check_router_blocks(path: Path, settings: Settings, architecture: VisionArchitecture) -> None:
    """Check that the router reads no more blocks than there are. Raises `TaskFileError`."""
    if settings.router_blocks != "auto" and settings.router_blocks > architecture.layers:
        raise TaskFileError(
            f"{path}: [settings]: router_blocks is {settings.router_blocks}, and the tower has {architecture.layers} "
            'blocks; give at most that many, or "auto"'
        )
