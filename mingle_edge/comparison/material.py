"""What a comparison works on, found and checked before any work: towers, heads, seeds, and images with labels by part."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.checkpoints import Checkpoint
from mingle_edge.comparison.image_sets import ImageSet
from mingle_edge.comparison.method import ComparedTask, Workbench
from mingle_edge.corruptions import Corruption
from mingle_edge.errors import ComparisonError, ImageFolderError
from mingle_edge.image_source import ImageSource
from mingle_edge.images import check_images
from mingle_edge.labelled_images import draw_seeds, labelled_paths
from mingle_edge.plain_file import refusal
from mingle_edge.prepared import PreparedTask, prepare
from mingle_edge.progress import Progress
from mingle_edge.seeds import SeedImages
from mingle_edge.settings import Settings
from mingle_edge.task_file import TaskFile, TaskSource, read_task_file
from mingle_edge.vision_tower import Parameters

Part = Literal["test", "tune"]
PARTS: tuple[Part, ...] = ("test", "tune")
_LISTED = 10  # files named in a message


@dataclass(frozen=True)
class Labelled:
    """Where the labelled images of one part of one task are."""

    paths: list[Path]
    labels: list[int]


@dataclass
class Material:
    """A task file with everything it names opened. Towers are read when a cell asks for them, and never kept all at once."""

    file: TaskFile
    settings: Settings
    architecture: VisionArchitecture
    logit_scale: float
    backbone_checkpoint: Checkpoint
    backbone_sha256: str
    prepared: dict[str, PreparedTask]
    drawn: dict[int, dict[str, list[Path]]]  # seeds per class -> task -> seeds, where it is not the task file's number
    parts: dict[Part, dict[str, Labelled]]  # by task; a part is there for every task or for none
    _sets: dict[tuple[Part, str, Corruption | None], ImageSet] = field(default_factory=dict)
    _digests: dict[tuple[str, Part, int | None], str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, *, seed: int, seeds_per_class: Sequence[int], progress: Progress) -> Material:
        """Read a task file for a comparison.

        `seeds_per_class`: other numbers of seeds than the task file's to be drawn as well, which needs labelled ones.

        Raises:
            ComparisonError: a task without test images, labels for drawing seeds that are not there.
            TaskFileError, CheckpointError, ImageFolderError: of the parts.
        """
        file = read_task_file(path)
        file = replace(file, settings=file.settings | {"seed": seed})
        base = path.parent
        drawn = {n: {task.name: _seeds(task, base, n, seed) for task in file.tasks} for n in seeds_per_class}
        found = prepare(file, progress)
        parts: dict[Part, dict[str, Labelled]] = {"test": _part("test", file, base), "tune": {}}
        if all(task.tune is not None for task in file.tasks):
            parts["tune"] = _part("tune", file, base)
        return cls(
            file=file,
            settings=found.settings,
            architecture=found.architecture,
            logit_scale=found.logit_scale,
            backbone_checkpoint=found.backbone,
            backbone_sha256=found.backbone_sha256,
            prepared={task.source.name: task for task in found.tasks},
            drawn=drawn,
            parts=parts,
        )

    @property
    def tasks(self) -> list[str]:
        """Names in the order of the task file."""
        return list(self.prepared)

    def workbench(self, device: torch.device) -> Workbench:
        """What methods work with, the pretrained tower read now."""
        return Workbench(
            backbone={name: tensor.to(device) for name, tensor in self.backbone_checkpoint.tensors()},
            architecture=self.architecture,
            logit_scale=self.logit_scale,
            device=device,
            seed=self.settings.seed,
        )

    def seeds(self, task: str, per_class: int | None) -> list[Path]:
        """The seeds of a task, as many as the task file says or so many of every class."""
        return self.prepared[task].seeds if per_class is None else self.drawn[per_class][task]

    def compared(self, name: str, per_class: int | None, backbone: Parameters, device: torch.device) -> ComparedTask:
        """One task as a method gets it, its tower read now."""
        task = self.prepared[name]
        finetuned = {key: tensor.to(device) for key, tensor in task.checkpoint.tensors()}
        # A vision-only checkpoint has no projection: it was trained under the backbone's.
        finetuned.setdefault("projection.weight", backbone["projection.weight"])
        return ComparedTask(name, finetuned, task.head.to(device), SeedImages(self.seeds(name, per_class), self.architecture))

    def images(self, part: Part, task: str, corruption: Corruption | None = None) -> ImageSet:
        """The labelled images of one part of a task; kept, so that they are preprocessed once."""
        key = (part, task, corruption)
        if key not in self._sets:
            labelled = self.parts[part][task]
            self._sets[key] = ImageSet(labelled.paths, labelled.labels, self.architecture, corruption)
        return self._sets[key]

    def check_images(self, progress: Progress) -> None:
        """Decode every seed and labelled image once. Raises `ImageFolderError` naming those that are broken."""
        check_images(sorted(self._hashes), progress)

    def check_disjoint(self) -> None:
        """That no seed, of any task, has the same bytes as a labelled image. Raises `ComparisonError` listing them."""
        seeds: dict[str, list[Path]] = defaultdict(list)
        for path in self._seed_paths():
            seeds[self._hashes[path]].append(path)
        for part in PARTS:
            shared = [
                (seed, path)
                for labelled in self.parts[part].values()
                for path in labelled.paths
                for seed in seeds.get(self._hashes[path], ())
            ]
            if shared:
                listed = ", ".join(f"{seed} = {path}" for seed, path in shared[:_LISTED])
                more = f" and {len(shared) - _LISTED} more" if len(shared) > _LISTED else ""
                name = {"test": "test images", "tune": "validation images"}[part]
                raise ComparisonError(
                    f"{self.file.path}: {len(shared)} seed images are also {name} ({listed}{more}), so accuracy would be "
                    f"measured on what methods adapt to; take other seeds, or remove them from the {name}"
                )

    def digest(self, tasks: Sequence[str], part: Part, per_class: int | None) -> str:
        """SHA-256 of everything a cell reads: towers, heads, seeds and labelled images of these tasks, by content."""
        of_tasks = (self._task_digest(name, part, per_class) for name in sorted(tasks))
        return hashlib.sha256(" ".join([self.backbone_sha256, *of_tasks]).encode()).hexdigest()

    def _task_digest(self, name: str, part: Part, per_class: int | None) -> str:
        """The same of one task; kept, as every cell asks for it."""
        key = (name, part, per_class)
        if key not in self._digests:
            task, labelled = self.prepared[name], self.parts[part][name]
            digest = hashlib.sha256(f"{name} {task.sha256} {labelled.labels}".encode())
            digest.update(task.head.numpy().tobytes())
            for path in [*self.seeds(name, per_class), *labelled.paths]:
                digest.update(self._hashes[path].encode())
            self._digests[key] = digest.hexdigest()
        return self._digests[key]

    def record(self) -> list[dict[str, Any]]:
        """What results say of every task."""
        return [
            {
                "name": name,
                "classes": len(task.source.classes),
                "test_images": len(self.parts["test"][name].paths),
                "tune_images": len(self.parts["tune"][name].paths) if self.parts["tune"] else 0,
                "seed_images": len(task.seeds),
            }
            for name, task in self.prepared.items()
        ]

    @cached_property
    def _hashes(self) -> Mapping[Path, str]:
        labelled = (path for part in self.parts.values() for of_task in part.values() for path in of_task.paths)
        return {path: _sha256(path) for path in {*labelled, *self._seed_paths()}}

    def _seed_paths(self) -> set[Path]:
        """All seeds of all tasks."""
        drawn = (path for of_tasks in self.drawn.values() for paths in of_tasks.values() for path in paths)
        return {*drawn, *(path for task in self.prepared.values() for path in task.seeds)}


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageFolderError(f"{path} {refusal(error)}") from error


def _seeds(task: TaskSource, base: Path, per_class: int, seed: int) -> list[Path]:
    if not task.seeds.labelled:
        raise ComparisonError(
            f"task {task.name!r}: {per_class} seeds per class cannot be drawn from {task.seeds.files!r}, whose images have no "
            "labels; give seeds as dir/<class>/*.png or parquet, or leave the number of seeds to the task file"
        )
    return draw_seeds(task.seeds, base, task.classes, per_class, seed)


def _part(part: Part, file: TaskFile, base: Path) -> dict[str, Labelled]:
    found = {}
    for task in file.tasks:
        source: ImageSource | None = getattr(task, part)
        if source is None:
            raise ComparisonError(
                f'{file.path}: task {task.name!r} has no test images; add test = "dir/<class>/*.png" to its [[task]] table'
            )
        pairs = labelled_paths(source, base, task.classes)
        found[task.name] = Labelled([path for path, _ in pairs], [label for _, label in pairs])
    return found
