"""Writing a head into a file of its own, for bundles that are on devices already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mingle_edge.core.errors import CheckpointError, OutputError, TaskFileError, shown
from mingle_edge.data.task_file import DEFAULT_TEMPLATES, TaskFile, TaskSource, read_task_file
from mingle_edge.files.atomic_files import replacing, why_not_written
from mingle_edge.files.output_path import check_output_file
from mingle_edge_runtime.bundle import head as stored
from mingle_edge_runtime.bundle.head_file import FORMAT, FORMAT_VERSION, HeadFile, HeadIndex
from mingle_edge_runtime.bundle.rules import fault_in_labels
from mingle_edge_runtime.bundle.task_names import TASK_NAME

if TYPE_CHECKING:
    from mingle_edge.clip.head import Head


def write_head(
    task_file: str | PathLike[str],
    output: str | PathLike[str],
    *,
    task: str | None = None,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
) -> HeadFile:
    """Write the head of a task, or of other class names, into a file that `EdgeModel.load_head` reads.

    Images are embedded on the device as before; only labels change, so nothing is merged or exported again.

    Args:
        task_file: the one that the bundle was merged from.
        output: the file to write, or to replace.
        task: the task whose text tower, templates and, unless `classes` are given, classes are used. None: the backbone's text
            tower.
        name: what the device calls the head. None: as the task, whose labels it then replaces.
        classes: names of the classes (arXiv 2103.00020, 3.1). None: those of the task, as the task file says now.
        templates: prompts with {} for the class name. None: the task's, or "a photo of a {}.".

    Returns:
        what was written.

    Raises:
        TaskFileError: the task file is wrong, the task is not in it, or neither task nor classes and name were given.
        CheckpointError: a checkpoint cannot be read, or has no text tower and new classes need one.
        OutputError: the file cannot be written.
    """
    path = Path(output)
    check_output_file(path, Path(task_file))
    tasks = read_task_file(Path(task_file))
    source = None if task is None else _find(tasks, task)
    name = _checked_name(name or task)
    if classes is None and source is None:
        raise TaskFileError("a head needs class names: give classes, or the task whose classes are meant")
    if classes is not None and (fault := fault_in_labels(classes)):
        raise TaskFileError(f"the list of classes {fault}; give names that differ, one for each class")
    if wrong := [template for template in templates or () if "{}" not in template]:
        raise TaskFileError(f"the template {shown(wrong[0])} has no {{}}, where the class name goes; add it")
    file = _make(tasks, source, name, classes, templates)
    try:
        with replacing(path) as written, open(written, "wb") as stream:
            file.write(stream)
    except OSError as error:
        raise OutputError(f"{path}: {why_not_written(error)}") from error
    return file


def _make(
    tasks: TaskFile, source: TaskSource | None, name: str, classes: Sequence[str] | None, templates: Sequence[str] | None
) -> HeadFile:
    """Return the head of a task, or with none that of the backbone's text tower. Raises `CheckpointError`, `TaskFileError`."""
    from mingle_edge.checkpoints import open_checkpoint, read_architecture  # torch, which mistakes need not wait for
    from mingle_edge.checkpoints.classifier import has_classifier
    from mingle_edge.merging.task_heads import BACKBONE_TEXT, FROM_TEXT, TaskHeads

    base = tasks.path.parent
    architecture = read_architecture(tasks.backbone.model, base, tasks.backbone.weights)
    weights = tasks.backbone.weights or tasks.backbone.model
    backbone = open_checkpoint(weights, base=base, architecture=architecture, model=tasks.backbone.model)
    heads = TaskHeads(tasks.backbone, architecture, base)
    task = checkpoint_sha256 = None
    if source is None:
        chosen, prompts = list(classes or ()), list(templates or DEFAULT_TEMPLATES)
        head, origin = heads.of_backbone(chosen, prompts), BACKBONE_TEXT
    else:
        checkpoint = open_checkpoint(source.weights, base=base, architecture=architecture, backbone=backbone)
        if classes is not None and has_classifier(checkpoint):
            raise CheckpointError(
                f"{checkpoint.path} holds a classifier, whose classes are those it was trained on; new class names need a text "
                "tower: leave out the task to use the backbone's, or train the classifier again"
            )
        source = _with(source, classes, templates)
        head, origin = heads.read(source, checkpoint)
        chosen, prompts = source.classes, source.templates
        if origin != BACKBONE_TEXT:
            task, checkpoint_sha256 = source.name, checkpoint.sha256()
    index = HeadIndex(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name=name,
        labels=tuple(chosen),
        logit_scale=head.logit_scale,
        backbone_sha256=backbone.sha256(),
        origin=origin,
        task=task,
        checkpoint_sha256=checkpoint_sha256,
        templates=tuple(prompts) if origin in FROM_TEXT else None,
    )
    return HeadFile(index, _stored(head))


def _find(tasks: TaskFile, name: str) -> TaskSource:
    """Return a task with its classes, which its checkpoint may be the one to name."""
    for task in tasks.tasks:
        if task.name == name:
            from mingle_edge.checkpoints.class_names import with_class_names

            return with_class_names(replace(tasks, tasks=[task])).tasks[0]
    raise TaskFileError(f"{tasks.path} has no task {name!r}; it has {', '.join(task.name for task in tasks.tasks)}")


def _checked_name(name: str | None) -> str:
    if name is None:
        raise TaskFileError("a head of the backbone's text tower needs a name, by which the device asks for its labels")
    if not TASK_NAME.fullmatch(name):
        raise TaskFileError(
            f"the name {shown(name)} must be 1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit"
        )
    return name


def _with(task: TaskSource, classes: Sequence[str] | None, templates: Sequence[str] | None) -> TaskSource:
    """Return the task with other class names or templates; its ready-made head is then of no use."""
    if classes is None and templates is None:
        return task
    return replace(
        task,
        classes=list(classes or task.classes),
        templates=list(templates or task.templates or DEFAULT_TEMPLATES),
        head=None,
    )


def _stored(head: Head) -> stored.Head:
    bias = None if head.bias is None else head.bias.numpy().astype(np.float32)
    return stored.Head(head.weight.numpy().astype(np.float32), bias, head.logit_scale)
