"""Accuracy of a merged model on labeled images, and what it forgot, under the three protocols.

An append-only model is its own history: the state after task t is its first t tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mingle_edge.core.errors import NoMergedModelError, OptionError, TaskFileError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.labeled_images import read_labeled
from mingle_edge.data.settings import Pooling
from mingle_edge.data.task_files import TaskFilePaths
from mingle_edge.evaluation.metrics import average_accuracy, backward_transfer
from mingle_edge.evaluation.protocols import PROTOCOLS
from mingle_edge.evaluation.router_figures import RouterReport, router_report
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge.merging.task_sources import find_sources


@dataclass(frozen=True)
class EvaluationReport:
    """Accuracies in percent, by protocol, in order of merging."""

    tasks: list[str]
    after_own: dict[str, list[float]]  # right after the task's own merge
    final: dict[str, list[float]]  # after the last merge
    images: list[int]  # test images per task
    own_route: list[float] = field(default_factory=list)  # image scope: images routed to their own task, percent
    unclaimed: list[float] = field(default_factory=list)  # image scope: images no task claims, percent
    router_blocks: int | None = None  # image scope: blocks the router reads after the last merge; None: pixels alone
    router: RouterReport | None = None  # image scope

    def acc(self, protocol: str) -> float:
        """Return the mean over tasks of the final accuracy, in percent; protocol: P1, P2 or P3."""
        return average_accuracy(self.final[protocol])

    def bwt(self, protocol: str) -> float:
        """Return backward transfer in points: what earlier tasks gained since their own merge, negative where they lost."""
        return backward_transfer(self.after_own[protocol], self.final[protocol])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every figure."""
        summary = {p: {"acc": self.acc(p), "bwt": self.bwt(p)} for p in PROTOCOLS}
        return vars(self) | {"router": asdict(self.router) if self.router else None, "summary": summary}


def evaluate(
    merged: str | Path,
    task_files: TaskFilePaths,
    *,
    top_k: int | None = None,
    pooling: Pooling = "image",
    device: str = "auto",
    progress: Progress = silent,
) -> EvaluationReport:
    """Evaluate a merged model on the test images that task files name, and return its accuracies in percent.

    The model and the task files are checked before torch is imported, and every image is decoded before the first is evaluated.

    Args:
        merged: the folder that `merge` wrote.
        task_files: the task file it was merged from, or a sequence of those that it grew by, each task with `test` images; more
            tasks may be in them.
        top_k: experts per image (image scope: 1 unless given) or per layer (layer scope: all unless given).
        pooling: `batch` averages the gates of the layer scope over 64 images of one task, which tells the gates the task.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        progress: is told how far the work is.

    Raises:
        MergedModelError: the model is damaged, has no task, or computes embeddings that are not finite.
        TaskFileError: a task file is malformed or names another backbone, or a task of the model is in none or in two, or has
            no test images.
        OptionError: an option does nothing for this model.
        ImageFolderError: images are missing, broken or of other classes.
        DeviceError: there is no such device.
    """
    model = MergedModel.open(merged)
    if not model.tasks:
        raise NoMergedModelError(f"{model.path}: holds no task yet; run the merge to its end before evaluating")
    check_options(model, top_k, pooling)
    tests = read_test_images(model, task_files, progress)
    from mingle_edge.core.device import choose_device
    from mingle_edge.evaluation.merged_answers import measure_history
    from mingle_edge.merging.merged_tower import GatedTower

    chosen = choose_device(device)
    check_images([path for images in tests.values() for path in images.paths], progress)
    tower = GatedTower(model, chosen)
    history = list(measure_history(tower, tests, top_k, pooling, progress))
    last = [final for _, final, _ in history]
    routed = [images for _, _, images in history if images is not None]
    return EvaluationReport(
        tasks=model.task_names,
        after_own={protocol: [own.right[protocol] for own, _, _ in history] for protocol in PROTOCOLS},
        final={protocol: [final.right[protocol] for final in last] for protocol in PROTOCOLS},
        images=[len(images) for images in tests.values()],
        own_route=[final.own_route for final in last if final.own_route is not None],
        unclaimed=[final.unclaimed for final in last if final.unclaimed is not None],
        router_blocks=model.router_depth if model.scope == "image" else None,
        router=router_report(tower.cascade, model.task_names, routed) if routed else None,
    )


def check_options(model: MergedModel, top_k: int | None, pooling: Pooling) -> None:
    """Check that options of `evaluate` do something for a merged model. Raises `OptionError` saying which one to leave out."""
    if pooling == "batch" and model.scope == "image":
        raise OptionError(
            f"{model.path}: pooling averages the gates of the layer scope, and this model was merged in the image scope, which "
            "has none; leave out --pooled"
        )
    if top_k is not None and top_k > len(model.tasks):
        most = len(model.tasks)
        raise OptionError(
            f"{model.path}: top-k is {top_k}, and the model has {most} expert{'s' * (most > 1)}; give at most {most}"
        )


def read_test_images(model: MergedModel, task_files: TaskFilePaths, progress: Progress = silent) -> Mapping[str, ImageSet]:
    """Return the labeled test images of every task of the model, as the task files name them; none is decoded.

    Raises:
        TaskFileError: as `find_sources`, or a task of the model has no test images.
        ImageFolderError: images that are missing or of other classes.
    """
    tests: dict[str, ImageSet] = {}
    sources = find_sources(model, task_files)
    for record in model.tasks:
        task, file = sources[record.name]
        if task.test is None:
            raise TaskFileError(
                f'{file}: task {record.name!r} of the merged model has no test images; add test = "dir/<class>/*.png" '
                f"to its [[task]] table"
            )
        tests[record.name] = read_labeled(task.test, file.parent, record.classes, progress)
    return tests
