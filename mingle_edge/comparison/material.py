"""What a comparison works on, found and checked before any work: towers, heads, seeds, and images with labels by part."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mingle_edge.checkpoints.class_names import with_class_names
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.comparison.cell import PARTS, Part
from mingle_edge.comparison.method import Workbench
from mingle_edge.core.errors import ComparisonError, ImageFolderError, TaskFileError
from mingle_edge.core.progress import Progress
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import draw_calibration_images, read_labeled
from mingle_edge.data.task_file import TaskFile, TaskSource
from mingle_edge.data.task_files import TaskFilePaths, read_task_files
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.files.plain_file import refusal
from mingle_edge.merging.merge_inputs import MergeInputs, TaskInputs, read_merge_inputs

_LISTED = 10  # files named in a message
KEPT_BYTES = 1 << 28  # of preprocessed images of one set; larger sets are decoded again whenever they are needed


@dataclass
class Material:
    """Task files with everything they name opened. Towers are read when a cell asks for them, and never kept all at once."""

    files: list[TaskFile]
    merge_inputs: MergeInputs
    inputs: dict[str, TaskInputs]  # by task, in the order of the task files
    drawn: dict[int, dict[str, ImageSet]]  # seeds per class -> task -> seeds, where it is not the task file's number
    parts: dict[Part, dict[str, ImageSet]]  # by task; a part is there for every task or for none
    _digests: dict[tuple[str, Part, int | None], str] = field(default_factory=dict)

    @classmethod
    def open(cls, paths: TaskFilePaths, *, seed: int, seeds_per_class: Sequence[int], progress: Progress) -> Material:
        """Read task files for a comparison.

        `seeds_per_class`: other numbers of seeds than the task file's to be drawn as well, which needs labeled ones.

        Raises:
            ComparisonError: a task without test images, labels for drawing seeds that are not there.
            TaskFileError: two files name different backbones.
            TaskFileError, CheckpointError, ImageFolderError: of the parts.
        """
        files = [
            replace(file, settings=file.settings | {"seed": seed}) for file in map(with_class_names, read_task_files(paths))
        ]
        drawn = {
            n: {task.name: _seeds(task, file.path.parent, n, seed) for file in files for task in file.tasks}
            for n in seeds_per_class
        }
        merge_inputs = _joined([read_merge_inputs(file, progress) for file in files], files)
        parts: dict[Part, dict[str, ImageSet]] = {"test": _part("test", files), "tune": {}}
        if all(task.tune is not None for file in files for task in file.tasks):
            parts["tune"] = _part("tune", files)
        return cls(files, merge_inputs, {task.source.name: task for task in merge_inputs.tasks}, drawn, parts)

    @property
    def architecture(self) -> VisionArchitecture:
        """Return the architecture of every tower."""
        return self.merge_inputs.architecture

    @property
    def tasks(self) -> list[str]:
        """Return the names in the order of the task files."""
        return list(self.inputs)

    def workbench(self, device: torch.device) -> Workbench:
        """Return what methods work with, the pretrained tower read now."""
        return Workbench(**vars(self.merge_inputs.load(device)), seed=self.merge_inputs.settings.seed)

    def calibration_images(self, task: str, per_class: int | None) -> ImageSet:
        """Return the seeds of a task, as many as the task file says or so many of every class."""
        return self.inputs[task].calibration_images if per_class is None else self.drawn[per_class][task]

    def load(self, name: str, per_class: int | None, workbench: Workbench) -> FinetunedTask:
        """Return one task as a method gets it, its tower read now."""
        return replace(self.inputs[name], calibration_images=self.calibration_images(name, per_class)).load(workbench)

    def check_images(self, progress: Progress) -> None:
        """Decode every seed and labeled image once. Raises `ImageFolderError` naming those that are broken."""
        check_images(sorted(self._hashes), progress)

    def check_disjoint(self) -> None:
        """Check that no seed, of any task, has the same bytes as a labeled image. Raises `ComparisonError` listing them."""
        seeds: dict[str, list[Path]] = defaultdict(list)
        for path in self._calibration_paths():
            seeds[self._hashes[path]].append(path)
        for part in PARTS:
            shared = [
                (seed, path)
                for images in self.parts[part].values()
                for path in images.paths
                for seed in seeds.get(self._hashes[path], ())
            ]
            if shared:
                listed = ", ".join(f"{seed} = {path}" for seed, path in shared[:_LISTED])
                more = f" and {len(shared) - _LISTED} more" if len(shared) > _LISTED else ""
                name = {"test": "test images", "tune": "validation images"}[part]
                raise ComparisonError(
                    f"{self.files[0].path}: {len(shared)} seed images are also {name} ({listed}{more}), so accuracy would be "
                    f"measured on what methods adapt to; take other seeds, or remove them from the {name}"
                )

    def digest(self, tasks: Sequence[str], part: Part, per_class: int | None) -> str:
        """Return the SHA-256 of everything a cell reads: towers, heads, seeds and labeled images of these tasks, by content."""
        of_tasks = (self._task_digest(name, part, per_class) for name in sorted(tasks))
        return hashlib.sha256(" ".join([self.merge_inputs.backbone_sha256, *of_tasks]).encode()).hexdigest()

    def _task_digest(self, name: str, part: Part, per_class: int | None) -> str:
        """Return the same of one task; kept, as every cell asks for it."""
        key = (name, part, per_class)
        if key not in self._digests:
            task, images = self.inputs[name], self.parts[part][name]
            digest = hashlib.sha256(f"{name} {task.sha256} {images.labels}".encode())
            for values in (task.head.weight, task.head.bias):
                digest.update(b"" if values is None else values.numpy().tobytes())
            digest.update(repr(task.head.logit_scale).encode())
            for path in [*self.calibration_images(name, per_class).paths, *images.paths]:
                digest.update(self._hashes[path].encode())
            self._digests[key] = digest.hexdigest()
        return self._digests[key]

    def record(self) -> list[dict[str, Any]]:
        """Return what results say of every task."""
        return [
            {
                "name": name,
                "classes": len(task.source.classes),
                "test_images": len(self.parts["test"][name]),
                "tune_images": len(self.parts["tune"][name]) if self.parts["tune"] else 0,
                "seed_images": len(task.calibration_images),
            }
            for name, task in self.inputs.items()
        ]

    @cached_property
    def _hashes(self) -> Mapping[Path, str]:
        labeled = (path for part in self.parts.values() for images in part.values() for path in images.paths)
        return {path: _sha256(path) for path in {*labeled, *self._calibration_paths()}}

    def _calibration_paths(self) -> set[Path]:
        """Return all seeds of all tasks."""
        drawn = (images for of_tasks in self.drawn.values() for images in of_tasks.values())
        return {
            path for images in (*drawn, *(task.calibration_images for task in self.inputs.values())) for path in images.paths
        }


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageFolderError(f"{path} {refusal(error)}") from error


def _seeds(task: TaskSource, base: Path, per_class: int, seed: int) -> ImageSet:
    if not task.seeds.labeled:
        raise ComparisonError(
            f"task {task.name!r}: {per_class} seeds per class cannot be drawn from {task.seeds.files!r}, whose images have no "
            "labels; give seeds as dir/<class>/*.png or parquet, or leave the number of seeds to the task file"
        )
    return draw_calibration_images(task.seeds, base, task.classes, per_class, seed)


def _part(part: Part, files: Sequence[TaskFile]) -> dict[str, ImageSet]:
    sets = {}
    for file in files:
        for task in file.tasks:
            source: ImageSource | None = getattr(task, part)
            if source is None:
                raise ComparisonError(
                    f'{file.path}: task {task.name!r} has no test images; add test = "dir/<class>/*.png" to its [[task]] table'
                )
            sets[task.name] = read_labeled(source, file.path.parent, task.classes).kept(KEPT_BYTES)
    return sets


def _joined(inputs: Sequence[MergeInputs], files: Sequence[TaskFile]) -> MergeInputs:
    """Return the inputs of several task files as those of one. Raises `TaskFileError` where their backbones differ."""
    first = inputs[0]
    for other, file in zip(inputs, files, strict=True):
        if (other.backbone_sha256, other.architecture) != (first.backbone_sha256, first.architecture):
            raise TaskFileError(
                f"{file.path} names another backbone than {files[0].path} (sha256 {other.backbone_sha256[:12]}, there "
                f"{first.backbone_sha256[:12]}); compare tasks of one backbone"
            )
    return replace(first, tasks=[task for each in inputs for task in each.tasks])
