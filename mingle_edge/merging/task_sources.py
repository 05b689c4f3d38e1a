"""What task files say of the tasks of a merged model, which may have come from several files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.task_file import TaskFile, TaskSource
from mingle_edge.data.task_files import TaskFilePaths, read_task_files, same_backbone
from mingle_edge.merging.merged_model import MergedModel


class FoundSource(NamedTuple):
    """A task of a merged model as its task file describes it."""

    task: TaskSource
    file: Path

    @property
    def base(self) -> Path:
        """Return the folder that relative paths start from."""
        return self.file.parent


def find_sources(model: MergedModel, paths: TaskFilePaths) -> dict[str, FoundSource]:
    """Return every task of a merged model as one of the task files describes it; the files may hold more tasks.

    Raises:
        TaskFileError: a file is malformed, a task is in none or in two of them, or a file names another backbone.
    """
    files = read_task_files(paths)
    found = {task.name: FoundSource(task, file.path) for file in files for task in file.tasks}
    missing = [name for name in model.task_names if name not in found]
    if missing:
        raise TaskFileError(
            f"{model.path} holds the task{'s' if len(missing) > 1 else ''} {', '.join(missing)}, which "
            f"{_none_of(files)}; also name the file that {'they were' if len(missing) > 1 else 'it was'} merged from"
        )
    _check_backbones(model, files)
    return {name: found[name] for name in model.task_names}


def _none_of(files: list[TaskFile]) -> str:
    names = ", ".join(str(file.path) for file in files)
    return f"{names} does not list" if len(files) == 1 else f"none of {names} lists"


def _check_backbones(model: MergedModel, files: list[TaskFile]) -> None:
    """Check that files which name different backbones mean the same one, by its contents. Raises `TaskFileError`."""
    if all(same_backbone(file, files[0]) for file in files):
        return
    from mingle_edge.checkpoints import open_checkpoint, read_architecture  # these load PyTorch, which takes seconds

    for file in files:
        named, base = file.backbone, file.path.parent
        architecture = read_architecture(named.model, base, named.weights)
        source = named.weights or named.model
        sha256 = open_checkpoint(source, base=base, architecture=architecture, model=named.model).sha256()
        if sha256 != model.backbone_sha256:
            raise TaskFileError(
                f"{file.path} names another backbone ({source}, sha256 {sha256[:12]}) than {model.path} was merged from "
                f"({model.backbone_source}, sha256 {model.backbone_sha256[:12]}); leave the file out, or correct its [backbone]"
            )
