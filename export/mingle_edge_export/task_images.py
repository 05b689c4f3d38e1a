"""Images that a task file names, for an export: seeds that calibrate, and labelled ones that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mingle_edge.errors import TaskFileError
from mingle_edge.evaluation import LabelledSet, load_test_set
from mingle_edge.images import check_images
from mingle_edge.labelled_images import seed_paths
from mingle_edge.merged_model import MergedModel
from mingle_edge.task_file import read_task_file


@dataclass(frozen=True)
class TaskImages:
    """Of the tasks of a merged model."""

    seeds: Mapping[str, Sequence[Path]]
    tests: Sequence[LabelledSet]
    """of the tasks that have labelled images"""


def read_task_images(path: Path, merged: MergedModel) -> TaskImages:
    """Find and decode the images. Raises `TaskFileError` where a task is missing, `ImageFolderError` for broken images."""
    tasks = read_task_file(path)
    sources = {task.name: task for task in tasks.tasks}
    missing = [name for name in merged.task_names if name not in sources]
    if missing:
        raise TaskFileError(
            f"{path}: has no [[task]] {missing[0]!r}, which {merged.path} holds; give the file it was merged from"
        )
    seeds = {name: seed_paths(sources[name], path.parent, merged.settings.seed) for name in merged.task_names}
    for paths in seeds.values():
        check_images(paths)
    tests = [
        load_test_set(record, source, path.parent)
        for record in merged.tasks
        if (source := sources[record.name].test) is not None
    ]
    return TaskImages(seeds, tests)
