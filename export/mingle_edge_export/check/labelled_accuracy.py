"""What a bundle's precision costs in accuracy: its answers and PyTorch's on the same labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mingle_edge.evaluation import LabelledSet, reference_answers
from mingle_edge.gated_tower import GatedTower
from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress
from mingle_edge_export.graph.builder import Array
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle import Bundle

BATCH = 16  # images


@dataclass(frozen=True)
class TaskAccuracy:
    """Percent of one task's labelled images that are right, in PyTorch and in the bundle."""

    task: str
    images: int
    named: tuple[float, float]
    """the task given (P2)"""
    routed: tuple[float, float]
    """the head given, the route not (P1)"""


def accuracy_drop(tasks: Sequence[TaskAccuracy]) -> float:
    """Points lost in the mean over tasks, under the protocol that loses more."""
    lost = [[before - after for before, after in (task.named, task.routed)] for task in tasks]
    return float(np.mean(lost, axis=0).max())


def measure_accuracy(
    bundle: Bundle, merged: MergedModel, tests: Sequence[LabelledSet], top_k: int, progress: Progress
) -> list[TaskAccuracy]:
    """Both implementations on labelled images of tasks of the bundle."""
    found = []
    tower = GatedTower(merged)
    with EdgeModel.open(bundle.root) as model:
        for i, test in enumerate(tests):
            progress("accuracy", i, len(tests), test.task)
            head = merged.head(test.task)
            routed, named = reference_answers(tower, test, top_k)

            def right(embeds: Array, head: Array = head, test: LabelledSet = test) -> float:
                return 100 * float(np.mean((embeds @ head.T).argmax(1) == test.labels.numpy()))

            own, free = (_embed(model, test.paths, task) for task in (test.task, None))
            found.append(TaskAccuracy(test.task, len(test.paths), (right(named), right(own)), (right(routed), right(free))))
    progress("accuracy", len(tests), len(tests))
    return found


def label_agreement(
    bundle: Bundle, merged: MergedModel, expected: Mapping[str, Array], images: Mapping[str, Sequence[Path]]
) -> float:
    """The share of unlabelled images that get the label of the reference under their own task's expert.

    expected: task -> embeddings `[n, dim]` of its images in PyTorch.
    """
    same: list[bool] = []
    with EdgeModel.open(bundle.root) as model:
        for task, paths in images.items():
            head = merged.head(task)
            embeds = _embed(model, paths, task)
            same += ((embeds @ head.T).argmax(1) == (expected[task] @ head.T).argmax(1)).tolist()
    return float(np.mean(same))


def _embed(model: EdgeModel, paths: Sequence[Path], task: str | None) -> Array:
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return np.concatenate([model.embed(batch, task) for batch in batches])
