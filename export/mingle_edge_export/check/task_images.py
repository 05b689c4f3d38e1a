"""Images that a task file names, for an export: calibration images, and labeled ones that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mingle_edge.core.errors import TaskFileError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.labeled_images import read_calibration_images, read_labeled
from mingle_edge.data.task_file import read_task_file
from mingle_edge.merging.merged_model import MergedModel


@dataclass(frozen=True)
class TaskImages:
    """The images of a merged model's tasks."""

    calibration_images: Mapping[str, Sequence[Path]]
    tests: Mapping[str, ImageSet]
    """of the tasks that have labeled images"""


def read_task_images(path: Path, merged: MergedModel, progress: Progress = silent) -> TaskImages:
    """Find the images and decode each once to check it.

    Raises `TaskFileError` where a task is missing, `ImageFolderError` for broken images.
    """
    tasks = read_task_file(path)
    sources = {task.name: task for task in tasks.tasks}
    missing = [name for name in merged.task_names if name not in sources]
    if missing:
        raise TaskFileError(
            f"{path}: has no [[task]] {missing[0]!r}, which {merged.path} holds; give the file it was merged from"
        )
    calibration_images = {
        name: read_calibration_images(sources[name], path.parent, merged.settings.seed, progress) for name in merged.task_names
    }
    tests = {
        record.name: read_labeled(source, path.parent, record.classes, progress)
        for record in merged.tasks
        if (source := sources[record.name].test) is not None
    }
    check_images([path for images in (*calibration_images.values(), *tests.values()) for path in images.paths], progress)
    return TaskImages({name: images.paths for name, images in calibration_images.items()}, tests)
