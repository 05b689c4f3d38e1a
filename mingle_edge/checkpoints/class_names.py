"""The names of classes that a checkpoint itself tells, and their order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mingle_edge.checkpoints.model_config import is_there, read_json_object
from mingle_edge.core.errors import TaskFileError, shown
from mingle_edge.data.hub import local_path
from mingle_edge.data.task_file import TaskFile, TaskSource
from mingle_edge.data.task_file_table import MOST_CHARACTERS
from mingle_edge.data.weights_folder import HUGGING_FACE_CONFIG

_NO_NAME = re.compile(r"LABEL_\d+")  # what transformers calls classes that nobody named


def with_class_names(tasks: TaskFile) -> TaskFile:
    """Return the task file, with the classes of tasks that name none taken from their checkpoints.

    Raises:
        TaskFileError: a checkpoint names none either, or names that no classes can have.
        HubError: a checkpoint on the hub cannot be reached.
    """
    return replace(tasks, tasks=[task if task.classes else _named(task, tasks) for task in tasks.tasks])


def stored_class_names(folder: Path) -> list[str] | None:
    """Return the names in `id2label` of a Hugging Face folder's config.json, in the order of a classifier's rows.

    None where there is no folder or none are named, which transformers says by `LABEL_0`, `LABEL_1` and so on.

    Raises:
        CheckpointError: config.json cannot be read.
        TaskFileError: the numbers or the names are no classes.
    """
    path = folder / HUGGING_FACE_CONFIG
    if not is_there(path):
        return None
    labels: Any = read_json_object(path).get("id2label")
    if not isinstance(labels, dict) or not labels:
        return None
    names = [labels.get(str(number)) for number in range(len(labels))]
    if all(isinstance(name, str) and _NO_NAME.fullmatch(name) for name in names):
        return None
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or len(name) > MOST_CHARACTERS:
            raise TaskFileError(
                f"{path}: id2label.{number} is {shown(name)}, but must be a name of at most {MOST_CHARACTERS} characters; "
                "correct it, or name the task's classes"
            )
        if (first := names.index(name)) != number:
            raise TaskFileError(
                f"{path}: id2label.{number} is {shown(name)}, and so is id2label.{first}; give them names that differ"
            )
    return [str(name) for name in names]


def check_order(given: Sequence[str], stored: Sequence[str], where: str) -> None:
    """Check that the classes of a task file are those that a head's rows belong to, in their order.

    where: what names `stored`, for the message.

    Raises:
        TaskFileError: naming the first class that differs.
    """
    if len(given) != len(stored):
        raise TaskFileError(f"{where} names {len(stored)} classes, the task file {len(given)}; name those of the head's rows")
    for number, (ours, theirs) in enumerate(zip(given, stored, strict=True)):
        if ours != theirs:
            raise TaskFileError(
                f"{where} says that row {number} of the head is {shown(theirs)}, the task file's class {number} is "
                f"{shown(ours)}; name the classes as there, in that order"
            )


def _named(task: TaskSource, tasks: TaskFile) -> TaskSource:
    folder = local_path(task.weights, tasks.path.parent)
    names = stored_class_names(folder)
    if names is None:
        raise TaskFileError(
            f"{tasks.path}: [[task]] {shown(task.name)} classes is missing, and {folder} names none (id2label in config.json); "
            "add them, in the order of the head's rows"
        )
    return replace(task, classes=names)
