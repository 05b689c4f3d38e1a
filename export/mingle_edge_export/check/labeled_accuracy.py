"""What a bundle's precision costs in accuracy: its answers and PyTorch's on the same labeled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mingle_edge.clip.head import Head
from mingle_edge.core.progress import Progress
from mingle_edge.data.image_set import ImageSet
from mingle_edge.evaluation.answers import predict_within
from mingle_edge.evaluation.merged_answers import reference_answers
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export.errors import AccuracyError
from mingle_edge_export.graph.builder import Array
from mingle_edge_export.report import PairedAccuracy, TaskAccuracy, accuracy_drop
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.bundle import Bundle


def measure_accuracy(
    bundle: Bundle, tower: GatedTower, tests: Mapping[str, ImageSet], top_k: int, progress: Progress
) -> list[TaskAccuracy]:
    """Measure both implementations on labeled images of tasks of the bundle."""
    measured: list[TaskAccuracy] = []
    if not tests:
        return measured
    with EdgeModel.open(bundle) as model:
        for i, (task, images) in enumerate(tests.items()):
            progress("accuracy", i, len(tests), task)
            head = Head.of(tower.merged.head(task))
            routed, named = reference_answers(tower, task, images, top_k)

            def right(embeds: Array, head: Head = head, images: ImageSet = images) -> NDArray[np.bool_]:
                return np.asarray(predict_within(torch.from_numpy(embeds), head).numpy() == images.labels)

            own, free = (model.embed(images.paths, told) for told in (task, None))
            measured.append(TaskAccuracy(task, _paired(right(named), right(own)), _paired(right(routed), right(free))))
    progress("accuracy", len(tests), len(tests))
    return measured


def check_accuracy(tasks: Sequence[TaskAccuracy], most: float) -> None:
    """Raise `AccuracyError` where more than `most` points are lost in the mean over tasks, with the task named or routed."""
    if not tasks:
        return
    drops = (accuracy_drop([task.named for task in tasks]), accuracy_drop([task.routed for task in tasks]))
    drop = max(drops, key=lambda interval: interval.estimate)
    if not drop.estimate <= most:
        raise AccuracyError(
            f"the bundle's precision costs {drop.estimate:.2f} points of accuracy in the mean over {len(tasks)} "
            f"task{'s' * (len(tasks) > 1)} (95% interval {drop.low:.2f} to {drop.high:.2f}), at most {most:g} are allowed: no "
            "bundle was written; choose a higher precision, or allow more with --max-accuracy-drop",
            tasks,
        )


def _paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> PairedAccuracy:
    """Count right answers `[n]` to the same images."""
    return PairedAccuracy(len(before), int(before.sum()), int(after.sum()), int((before & ~after).sum()))
