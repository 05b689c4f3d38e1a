"""Merging the tasks of a task file into a model, one after another, so that an interrupted merge continues."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from mingle_edge.core.errors import DiskSpaceError, MergeConflictError, shown
from mingle_edge.core.progress import WARNING, Progress, silent
from mingle_edge.data.task_file import read_task_file
from mingle_edge.files.atomic_files import why_not_written
from mingle_edge.files.folder_lock import LOCK, locked
from mingle_edge.files.new_folder import check_new
from mingle_edge.merging.merged_index import INDEX, Backbone, MergedIndex, TaskRecord
from mingle_edge.merging.merged_model import MergedModel, clear_remains, commit_task, create
from mingle_edge.merging.merged_size import bytes_to_write

if TYPE_CHECKING:
    from mingle_edge.merging.merge_inputs import MergeInputs, TaskInputs


def merge(
    task_file: str | Path,
    output: str | Path,
    *,
    into: bool = False,
    device: str = "auto",
    progress: Progress = silent,
) -> MergedModel:
    """Merge the tasks of a task file into the folder `output`, committing each as it is done, and return the model.

    The task file and the output are checked before torch is imported, and all that they name before any work.

    Args:
        task_file: TOML, as README.md and docs/data.md describe it.
        output: without `into` a folder that is new, empty, or an interrupted merge of the same task file, which continues at
            its first unfinished task; with `into` a merged model.
        into: add to a merged model of the same backbone and settings; tasks it already holds are left alone.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        progress: is told how far the work is.

    Raises:
        TaskFileError: the task file is malformed, or names what is not there.
        CheckpointError: a checkpoint cannot be read, is of another architecture, or holds values that are not finite.
        ImageFolderError, HubError: of the images, or of what is on the hub.
        MergedModelError: the output is damaged (the error itself), in use or does not fit (`MergeConflictError`), or the disk
            has no room for it (`DiskSpaceError`).
        DeviceError: there is no such device.
    """
    output = Path(output)
    tasks = read_task_file(Path(task_file))
    if into:
        MergedModel.open(output)  # before a lock makes a folder of a wrong name
    with _claimed(output):
        existing = MergedModel.open(output) if into or os.path.lexists(output / INDEX) else None
        from mingle_edge.core.device import choose_device
        from mingle_edge.merging.merge_inputs import read_merge_inputs
        from mingle_edge.merging.task_merging import TaskMerger

        chosen = choose_device(device)
        inputs = read_merge_inputs(tasks, progress)
        if existing is not None:
            _check_continues(existing, inputs, into)
            _warn_of_other_seeds(existing, inputs, progress)
            _warn_of_other_groups(existing, inputs, progress)
        _check_index(inputs, existing)
        _check_space(output, inputs, existing)
        model = existing if existing is not None else _create(output, inputs)
        new = [task for task in inputs.tasks if task.source.name not in model.task_names]
        count = len(model.tasks) + len(new)
        merger = TaskMerger(model, inputs.load(chosen), progress)
        for task in new:
            started = time.perf_counter()
            progress("merge", len(model.tasks), count, task.source.name)
            tensors, record = merger.merge(task)
            record["head"] = task.head_source
            record["seconds"] = round(time.perf_counter() - started, 3)
            model = merger.model = commit_task(model, _task_record(task, record), tensors)
            progress("merge", len(model.tasks), count)
    return model


@contextmanager
def _claimed(output: Path) -> Iterator[None]:
    """Hold the folder for this merge alone, without what a killed one left unfinished in it."""
    with ExitStack() as stack:
        with _writing(output):
            stack.enter_context(locked(output / LOCK, "merge"))
            if os.path.lexists(output / INDEX):
                clear_remains(output)
            else:
                check_new(output, INDEX)
        yield


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Raise `MergeConflictError` for what the file system refuses within the block."""
    try:
        yield
    except OSError as error:
        raise MergeConflictError(f"{output}: {why_not_written(error)}") from error


def _check_continues(model: MergedModel, inputs: MergeInputs, into: bool) -> None:
    """Check that the model in the folder is of this backbone and these settings, and its tasks are those of the file."""
    if model.backbone_sha256 != inputs.backbone_sha256 or model.architecture != inputs.architecture:
        raise MergeConflictError(
            f"{model.path}: was merged from another backbone (sha256 {model.backbone_sha256[:12]}, the task file's is "
            f"{inputs.backbone_sha256[:12]}); use the same backbone or another output folder"
        )
    if difference := model.settings.difference(inputs.settings):
        raise MergeConflictError(
            f"{model.path}: was merged with other settings (there and in the task file: {'; '.join(difference)}); "
            "use the same settings or another output folder"
        )
    given = {task.source.name: task for task in inputs.tasks}
    for record in model.tasks:
        task = given.get(record.name)
        if task is None:
            continue
        if task.sha256 != record.source_sha256:
            raise MergeConflictError(
                f"{model.path}: already holds a task {record.name!r} from another checkpoint (sha256 "
                f"{record.source_sha256[:12]}, the task file's is {task.sha256[:12]}); give the new one another name"
            )
        for what, there, here in (
            ("classes", record.classes, task.source.classes),
            ("templates", record.templates, task.templates),
        ):
            for old, new in zip_longest(there, here, fillvalue=""):
                if old != new:
                    raise MergeConflictError(
                        f"{model.path}: already holds a task {record.name!r} with other {what} ({shown(old)} there, the task "
                        f"file has {shown(new)}); for new labels write a head with `mingle-edge head --task {record.name}`, "
                        "else merge into another folder"
                    )
    order = list(given)
    if not into and model.task_names != order[: len(model.tasks)]:
        raise MergeConflictError(
            f"{model.path}: the output folder holds a merge of other tasks ({', '.join(model.task_names)}); "
            "use --into to add tasks to it, or name another folder"
        )


def _warn_of_other_seeds(model: MergedModel, inputs: MergeInputs, progress: Progress) -> None:
    """Warn of tasks that are merged already and whose number of seeds is another one now; their contents are not recorded."""
    seeds = {task.source.name: len(task.calibration_images) for task in inputs.tasks}
    for record in model.tasks:
        if (now := seeds.get(record.name, record.seeds)) != record.seeds:
            progress(
                *(WARNING, 1, 1),
                f"task {record.name!r} was merged with {record.seeds} seeds, which stay, and the task file has {now}; to use "
                "these, merge into another folder",
            )


def _warn_of_other_groups(model: MergedModel, inputs: MergeInputs, progress: Progress) -> None:
    """Warn of tasks that are merged already and whose group is another one now."""
    groups = {task.source.name: task.source.group for task in inputs.tasks}
    for record in model.tasks:
        if (now := groups.get(record.name, record.group)) != record.group:
            was, asked = (f"group {group!r}" if group else "no group" for group in (record.group, now))
            progress(
                *(WARNING, 1, 1),
                f"task {record.name!r} was merged with {was}, which stays, and the task file has {asked}; to change it, merge "
                "into another folder",
            )


def _check_index(inputs: MergeInputs, existing: MergedModel | None) -> None:
    """Check that an index with all tasks will be read again, so that none is found unfit once it was merged."""
    backbone = Backbone(inputs.architecture, inputs.backbone_source, inputs.backbone_sha256, inputs.logit_scale)
    merged = existing.tasks if existing is not None else ()
    names = [task.name for task in merged]
    added = [_task_record(task, {}) for task in inputs.tasks if task.source.name not in names]
    MergedIndex(backbone, inputs.settings, (*merged, *added)).to_text()


def _check_space(target: Path, inputs: MergeInputs, existing: MergedModel | None) -> None:
    """Check that the disk has room for what will be written, so that no hour of work ends in a failed write."""
    needed = bytes_to_write(inputs, existing)
    parent = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise DiskSpaceError(
            f"{target}: the merge needs about {needed / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB free; "
            "free some space or name a folder on another disk"
        )


def _create(target: Path, inputs: MergeInputs) -> MergedModel:
    backbone = {name: tensor.numpy() for name, tensor in inputs.backbone.tensors()}
    with _writing(target):
        return create(
            target,
            backbone=backbone,
            architecture=inputs.architecture,
            settings=inputs.settings,
            logit_scale=inputs.logit_scale,
            source=inputs.backbone_source,
            sha256=inputs.backbone_sha256,
        )


def _task_record(task: TaskInputs, record: dict[str, object]) -> TaskRecord:
    return TaskRecord(
        name=task.source.name,
        classes=task.source.classes,
        templates=task.templates,
        source=task.source.weights,
        source_sha256=task.sha256,
        seeds=len(task.calibration_images),
        logit_scale=task.head.logit_scale,
        group=task.source.group,
        record=record,
    )
