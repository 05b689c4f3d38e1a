"""Everything that a merge reads before its work, part by part, so that one fault hides no other."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mingle_edge.checking.calibration import image_facts, labeled_images
from mingle_edge.checking.confusion import router_confusion
from mingle_edge.checking.report import (
    CheckpointFacts,
    CheckReport,
    Confusion,
    Findings,
    ImageFacts,
    Similarity,
    Size,
    TaskFacts,
    WeightFacts,
)
from mingle_edge.checking.sizes import sizes
from mingle_edge.checking.task_file_faults import ReadableTask, ReadableTaskFile
from mingle_edge.checking.weights import RANKS, WeightComparison, compare_weights
from mingle_edge.checkpoints import Checkpoint, check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.checkpoints.class_names import with_class_names
from mingle_edge.checkpoints.peft_adapter import is_adapter
from mingle_edge.checkpoints.safetensors_file import is_safetensors
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.core.progress import Progress
from mingle_edge.data.hub import local_path
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.labeled_images import read_calibration_images
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import BackboneSource, TaskFile, TaskSource
from mingle_edge.experts.expert_size import few_seeds
from mingle_edge.merging.merge_inputs import check_router_blocks
from mingle_edge.merging.merged_index import Backbone, MergedIndex, TaskRecord
from mingle_edge.merging.task_heads import TaskHeads
from mingle_edge.merging.task_warnings import settings_warnings, task_warnings

CONFUSED = 0.2
"""Share of a task's left-out images at one other task from which on a warning says so."""


@dataclass(frozen=True)
class _Task:
    """One task, as far as it was found sound."""

    source: TaskSource
    checkpoint: Checkpoint | None
    images: ImageSet | None
    head: tuple[Head, str] | None  # and what it comes from


def check_inputs(file: ReadableTaskFile, faults: Findings, progress: Progress) -> CheckReport:
    """Return the report of a task file whose faults of its own are in `faults` already, where all others are added."""
    warnings = Findings()
    base, settings = file.path.parent, file.settings
    architecture, backbone = _backbone(file, faults, progress)
    if architecture is not None:
        with faults.of(None, "settings"):
            check_router_blocks(file.path, settings, architecture)
        if settings.router_blocks != "auto":
            settings = replace(settings, router_blocks=min(settings.router_blocks, architecture.layers))
    heads = None if architecture is None or file.backbone is None else TaskHeads(file.backbone, architecture, base)
    tasks = []
    for number, task in enumerate(file.tasks):
        progress("check", number + 1, len(file.tasks) + 1, task.source.name)
        tasks.append(_task(file, task, architecture, backbone, heads, faults))
    progress("check", len(file.tasks) + 1, len(file.tasks) + 1)
    if architecture is not None and file.backbone is not None:
        _check_index(file.backbone, architecture, settings, tasks, faults)
    comparison, compared = None, [task for task in tasks if task.checkpoint is not None]
    if architecture is not None and backbone is not None and compared:
        with faults.of(None, "checkpoint"):
            towers = [task.checkpoint for task in compared if task.checkpoint is not None]
            comparison = compare_weights(backbone, towers, architecture, settings, progress)
    names = [task.source.name for task in compared]
    confusion = None
    if architecture is not None and backbone is not None and settings.scope == "image":
        with_images = {task.source.name: task.images for task in tasks if task.images is not None}
        if len(with_images) > 1:
            with faults.of(None, "backbone"):
                confusion = router_confusion(with_images, backbone, architecture, settings, progress)
    weights = dict(zip(names, comparison.facts, strict=True)) if comparison else {}
    facts = [_facts(task, base, weights.get(task.source.name), warnings) for task in tasks]
    if comparison is not None:
        _warn_of_weights(names, comparison, settings, warnings)
    if confusion is not None:
        _warn_of_confusion(confusion, warnings)
    if architecture is not None:
        for of_task in facts:
            if of_task.images is not None and of_task.images.count > 1 and (few := few_seeds(of_task.images.count, settings)):
                warnings.add(of_task.name, "calibration images", few)
        for message in settings_warnings(settings, architecture.width):
            warnings.add(None, "settings", message)
    return CheckReport(
        path=file.path,
        faults=faults,
        warnings=warnings,
        settings=file.settings.to_json(),
        architecture=None if architecture is None else asdict(architecture),
        backbone=None if backbone is None else _checkpoint_facts(backbone),
        tasks=facts,
        spectrum_blocks=comparison.spectrum_blocks if comparison else [],
        similarity=Similarity(names, comparison.cosines) if comparison else None,
        confusion=confusion,
        sizes=[] if architecture is None else _sizes(architecture, settings, tasks),
    )


def _backbone(
    file: ReadableTaskFile, faults: Findings, progress: Progress
) -> tuple[VisionArchitecture | None, Checkpoint | None]:
    """Return the architecture, and the backbone's checkpoint where it is sound."""
    architecture = backbone = None
    if (source := file.backbone) is not None:
        base = file.path.parent
        with faults.of(None, "backbone"):
            architecture = read_architecture(source.model, base, source.weights)
            opened = open_checkpoint(source.weights or source.model, base=base, architecture=architecture, model=source.model)
            progress("check", 0, len(file.tasks) + 1, opened.path.name)
            check_checkpoint(opened, architecture, backbone=True)
            backbone = opened
    return architecture, backbone


def _task(
    file: ReadableTaskFile,
    task: ReadableTask,
    architecture: VisionArchitecture | None,
    backbone: Checkpoint | None,
    heads: TaskHeads | None,
    faults: Findings,
) -> _Task:
    """Check the parts of one task that its table names. What an adapter makes of a broken backbone is not looked at."""
    source, base, name = task.source, file.path.parent, task.source.name
    classes_known = "classes" not in task.broken
    if classes_known and not source.classes:
        classes_known = False
        if "weights" not in task.broken:
            with faults.of(name, "classes"):
                alone = TaskFile(file.path, file.backbone or BackboneSource("", None), {}, [source])
                source = with_class_names(alone).tasks[0]
                classes_known = True
    images = checkpoint = head = None
    if not task.broken & {"seeds", "seeds_per_class"} and (classes_known or source.seeds_per_class is None):
        with faults.of(name, "calibration images"):
            found = read_calibration_images(source, base, file.settings.seed)
            check_images(found.paths)
            images = found
    if architecture is not None and "weights" not in task.broken:
        with faults.of(name, "checkpoint"):
            if backbone is not None or not is_adapter(local_path(source.weights, base)):
                opened = open_checkpoint(source.weights, base=base, architecture=architecture, backbone=backbone)
                check_checkpoint(opened, architecture, backbone=False)
                checkpoint = opened
    if heads is not None and checkpoint is not None and classes_known and not task.broken & {"head", "templates"}:
        with faults.of(name, "head"):
            head = heads.read(source, checkpoint)
    return _Task(source, checkpoint, images, head)


def _check_index(
    source: BackboneSource, architecture: VisionArchitecture, settings: Settings, tasks: list[_Task], faults: Findings
) -> None:
    """Check of each task that the index of a merged model may say what it says."""
    nothing = "0" * 64  # in place of hashes, which the check does not compute
    backbone = Backbone(architecture, source.weights or source.model, nothing, 1.0)
    for task in tasks:
        if task.head is not None and task.images is not None:
            head, _ = task.head
            record = TaskRecord(
                *(task.source.name, task.source.classes, task.source.templates, task.source.weights, nothing),
                *(len(task.images), head.logit_scale),
            )
            with faults.of(task.source.name, "task file"):
                MergedIndex(backbone, settings, (record,)).to_text()


def _facts(task: _Task, base: Path, weights: WeightFacts | None, warnings: Findings) -> TaskFacts:
    """Return what is known of a task, with a warning for what is strange about its images."""
    source, images = task.source, None
    if task.images is not None:
        images = _images(source, task.images, base, warnings)
    checkpoint = None if task.checkpoint is None else _checkpoint_facts(task.checkpoint)
    return TaskFacts(source.name, len(source.classes), checkpoint, task.head[1] if task.head else None, images, weights)


def _images(source: TaskSource, images: ImageSet, base: Path, warnings: Findings) -> ImageFacts | None:
    labeled: dict[str, ImageSet | None] = {}
    for key, place in (("test", source.test), ("tune", source.tune)):
        if place is not None and source.classes:
            labeled[key] = None
            with warnings.of(source.name, f"{key} images"):
                labeled[key] = labeled_images(place, base, source.classes)
    facts = None
    with warnings.of(source.name, "calibration images"):
        facts = image_facts(source, images, labeled)
        if facts.count < 2:
            warnings.add(
                source.name, "calibration images", f"there is {facts.count} only; a router learns nothing from one image"
            )
        if facts.duplicates:
            warnings.add(
                source.name,
                "calibration images",
                f"{facts.duplicates} of {facts.count} are exact copies of others; replace them, for they tell nothing new",
            )
        for key, shared in facts.overlap.items():
            if shared:
                warnings.add(
                    source.name,
                    "calibration images",
                    f"{shared} of {facts.count} are among the {key} images, byte for byte; what is measured there "
                    "says too much",
                )
    return facts


def _warn_of_weights(names: list[str], comparison: WeightComparison, settings: Settings, warnings: Findings) -> None:
    for name, kinship, facts in zip(names, comparison.kinships, comparison.facts, strict=True):
        for message in task_warnings(name, kinship, facts.explained_norm[settings.largest_rank], settings.largest_rank):
            warnings.add(name, "checkpoint", message)
    for first, second in comparison.same:
        message = (
            f"task {names[first]!r} and task {names[second]!r} have the very same weights; name the right checkpoint of each"
        )
        warnings.add(names[second], "checkpoint", message)


def _warn_of_confusion(confusion: Confusion, warnings: Findings) -> None:
    for task, shares in confusion.routed.items():
        for other, share in zip(confusion.tasks, shares, strict=True):
            if other != task and share >= CONFUSED:
                warnings.add(
                    task,
                    "router",
                    f"{share:.0%} of its left-out calibration images are routed to task {other!r}; name the task where the "
                    "application knows it, or give more and more typical images",
                )


def _checkpoint_facts(checkpoint: Checkpoint) -> CheckpointFacts:
    return CheckpointFacts(
        path=str(checkpoint.path),
        naming=checkpoint.naming,
        container="PEFT adapter" if is_adapter(checkpoint.path) else _container(checkpoint.files),
        dtypes=sorted({checkpoint.dtype(name) for name in checkpoint.names()}),
        bytes=sum(path.stat().st_size for path in checkpoint.files),
        outside=checkpoint.outside,
    )


def _container(files: list[Path]) -> str:
    """Say in words what the files of a checkpoint are."""
    with files[-1].open("rb") as file:
        beginning = file.read(64)
    kind = "safetensors" if is_safetensors(beginning, files[-1].stat().st_size) else "PyTorch"
    return kind if len(files) == 1 else f"{kind}, {len(files)} files"


def _sizes(architecture: VisionArchitecture, settings: Settings, tasks: list[_Task]) -> list[Size]:
    whole = [task for task in tasks if task.source.classes and task.images is not None]
    least = settings.rank if isinstance(settings.rank, int) else 0  # an automatic rank is known once it is merged
    ranks = [*([least] if least else []), *(rank for rank in RANKS if rank > least)]
    classes, images = [len(task.source.classes) for task in whole], [len(task.images or ()) for task in whole]
    return sizes(architecture, settings, classes, images, ranks) if whole else []
