"""Images that task files name, for an export: calibration images, and labeled ones that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.labeled_images import read_calibration_images, read_labeled
from mingle_edge.data.task_files import TaskFilePaths
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge.merging.task_sources import find_sources


@dataclass(frozen=True)
class TaskImages:
    """The images of a merged model's tasks."""

    calibration_images: Mapping[str, Sequence[Path]]
    tests: Mapping[str, ImageSet]
    """of the tasks that have labeled images"""


def read_task_images(paths: TaskFilePaths, merged: MergedModel, progress: Progress = silent) -> TaskImages:
    """Find the images and decode each once to check it.

    Raises `TaskFileError` as `find_sources`, `ImageFolderError` for broken images.
    """
    sources, seed = find_sources(merged, paths), merged.settings.seed
    calibration_images = {
        name: read_calibration_images(source.task, source.base, seed, progress) for name, source in sources.items()
    }
    tests = {
        record.name: read_labeled(test, sources[record.name].base, record.classes, progress)
        for record in merged.tasks
        if (test := sources[record.name].task.test) is not None
    }
    check_images([path for images in (*calibration_images.values(), *tests.values()) for path in images.paths], progress)
    return TaskImages({name: images.paths for name, images in calibration_images.items()}, tests)
