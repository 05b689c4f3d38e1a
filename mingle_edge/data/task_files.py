"""Several task files that belong together: one for the first tasks, one for each time that tasks were added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import BackboneSource, TaskFile, read_task_file

TaskFilePaths: TypeAlias = "str | Path | Sequence[str | Path]"
"""One task file, or several."""


def read_task_files(paths: TaskFilePaths) -> list[TaskFile]:
    """Read and check task files, in the given order.

    Raises:
        TaskFileError: as `read_task_file`; or no file is given, one is given twice, or two hold a task of the same name.
    """
    files = [read_task_file(Path(path)) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not files:
        raise TaskFileError("no task file is given; name at least one")
    for number, file in enumerate(files):
        for other in files[:number]:
            _check_apart(other, file)
    return files


def check_same_settings(files: Sequence[TaskFile]) -> None:
    """Check that task files have the settings of one merge. Raises `TaskFileError` naming those that differ."""
    first, *others = ((file, Settings.from_mapping(file.settings)) for file in files)
    for file, settings in others:
        if difference := first[1].difference(settings):
            raise TaskFileError(
                f"{file.path} has other settings than {first[0].path} (there and here: {'; '.join(difference)}); give both the "
                "same [settings]"
            )


def _check_apart(file: TaskFile, other: TaskFile) -> None:
    if file.path.resolve() == other.path.resolve():
        raise TaskFileError(f"{other.path} is given twice; name each task file once")
    known = {task.name.lower(): task.name for task in file.tasks}
    for task in other.tasks:
        if (name := known.get(task.name.lower())) is not None:
            alike = "" if name == task.name else f", which calls it {name!r}"
            raise TaskFileError(
                f"{other.path} holds task {task.name!r}, and so does {file.path}{alike}; keep it in one of the files"
            )


def same_backbone(file: TaskFile, other: TaskFile) -> bool:
    """Say whether two task files name the same backbone, as far as names tell: not by what lies there."""
    return _located(file.backbone, file.path.parent) == _located(other.backbone, other.path.parent)


def _located(backbone: BackboneSource, base: Path) -> list[str | None]:
    """Return model and weights, resolved where they are paths."""
    names = (backbone.model, backbone.weights)
    return [str((base / name).resolve()) if name is not None and (base / name).exists() else name for name in names]
