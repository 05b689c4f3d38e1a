"""Accuracy of a merged model on labelled images, and what it forgot, under the three protocols.

An append-only model is its own history: the state after task t is its first t tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.device import choose_device
from mingle_edge.errors import MergedModelError, TaskFileError
from mingle_edge.gated_tower import GatedTower
from mingle_edge.gating import Pooling
from mingle_edge.image_source import ImageSource
from mingle_edge.images import check_images, load_images
from mingle_edge.labelled_images import labelled_paths
from mingle_edge.merged_model import MergedModel, TaskRecord
from mingle_edge.metrics import average_accuracy, backward_transfer
from mingle_edge.progress import Progress, silent
from mingle_edge.protocols import PROTOCOLS, predict_among, predict_within
from mingle_edge.router_depth import deepest
from mingle_edge.task_file import read_task_file
from mingle_edge.vision_tower import router_features

BATCH = 64  # images; also what batch-pooled gates are pooled over


@dataclass(frozen=True)
class LabelledSet:
    """Labelled test images of one task."""

    task: str
    paths: list[Path]
    labels: Tensor  # [n], class numbers

    def batches(self, chosen: Sequence[int] | None = None) -> Iterator[list[int]]:
        """Image numbers in batches, all of them or the chosen ones."""
        numbers = list(range(len(self.paths))) if chosen is None else list(chosen)
        for start in range(0, len(numbers), BATCH):
            yield numbers[start : start + BATCH]


@dataclass(frozen=True)
class EvaluationReport:
    """Accuracies in percent, by protocol, in order of merging."""

    tasks: list[str]
    after_own: dict[str, list[float]]  # right after the task's own merge
    final: dict[str, list[float]]  # after the last merge
    images: list[int]  # test images per task
    own_route: list[float] = field(default_factory=list)  # image scope: images routed to their own task, percent
    unclaimed: list[float] = field(default_factory=list)  # image scope: images no task claims, percent
    router_blocks: int | None = None  # image scope: blocks the router reads after the last merge

    def acc(self, protocol: str) -> float:
        """Mean final accuracy over tasks."""
        return average_accuracy(self.final[protocol])

    def bwt(self, protocol: str) -> float:
        """Backward transfer."""
        return backward_transfer(self.after_own[protocol], self.final[protocol])

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every figure."""
        summary = {p: {"acc": self.acc(p), "bwt": self.bwt(p)} for p in PROTOCOLS}
        return vars(self) | {"summary": summary}


@dataclass(frozen=True)
class Routed:
    """Answers to one test set in one state of the model, along the routes found."""

    embeds: Tensor  # [n, dim]
    posterior: Tensor | None = None  # [n, T]
    claimed: Tensor | None = None  # [n]
    own: Tensor | None = None  # [n], routed to its own task


class Answering(Protocol):
    """How one scope answers for all test images of a task."""

    def routed(self, tests: LabelledSet, count: int) -> Routed:
        """In the state after the first `count` tasks, which the task is among."""

    def named(self, tests: LabelledSet) -> Tensor:
        """Embeddings `[n, dim]` with the task given, the same in every state."""


def load_test_sets(model: MergedModel, task_file: Path, progress: Progress = silent) -> list[LabelledSet]:
    """The labelled test images of every task of the model, as the task file names them, each decoded once.

    Raises:
        TaskFileError: a task of the model without test images.
        ImageFolderError: images that are missing, broken or of other classes.
    """
    tasks = read_task_file(task_file)
    sources = {task.name: task for task in tasks.tasks}
    sets = []
    for record in model.tasks:
        source = sources.get(record.name)
        if source is None or source.test is None:
            raise TaskFileError(
                f'{tasks.path}: task {record.name!r} of the merged model has no test images; add test = "dir/<class>/*.png" '
                f"to its [[task]] table"
            )
        sets.append(load_test_set(record, source.test, tasks.path.parent, progress))
    check_images([path for tests in sets for path in tests.paths], progress)
    return sets


def load_test_set(record: TaskRecord, source: ImageSource, base: Path, progress: Progress = silent) -> LabelledSet:
    """The labelled images of one task, relative paths starting from `base`; none is decoded."""
    pairs = labelled_paths(source, base, record.classes, progress)
    return LabelledSet(record.name, [path for path, _ in pairs], torch.tensor([label for _, label in pairs]))


def evaluate(
    merged: Path,
    task_file: Path,
    *,
    top_k: int | None = None,
    pooling: Pooling = "image",
    device: str = "auto",
    progress: Progress = silent,
) -> EvaluationReport:
    """Evaluate a merged model on the test images of a task file.

    `top_k` experts per image (image scope: 1 unless given) or per layer (layer scope: all unless given). `pooling` "batch"
    averages the gates of the layer scope over batches of 64 images of one task, which tells the gates the task. All images are
    decoded before the first is evaluated.
    """
    chosen = choose_device(device)
    model = MergedModel.open(merged)
    if not model.tasks:
        raise MergedModelError(f"{model.path}: holds no task yet; run the merge to its end before evaluating")
    sets = load_test_sets(model, task_file, progress)
    tower = GatedTower(model, chosen)
    answering: Answering = LayerScope(tower, top_k, pooling) if model.scope == "layer" else ImageScope(tower, top_k or 1)
    heads = [torch.from_numpy(model.head(name)).to(tower.device) for name in model.task_names]
    report = EvaluationReport(
        tasks=model.task_names,
        after_own={p: [] for p in PROTOCOLS},
        final={p: [] for p in PROTOCOLS},
        images=[len(tests.paths) for tests in sets],
        router_blocks=model.router_depth if model.scope == "image" else None,
    )
    for i, tests in enumerate(sets):
        progress("evaluate", i, len(sets), tests.task)
        named = answering.named(tests)
        own = answering.routed(tests, i + 1)
        last = answering.routed(tests, len(sets)) if i + 1 < len(sets) else own
        if not all(bool(embeds.isfinite().all()) for embeds in (named, own.embeds, last.embeds)):
            raise MergedModelError(f"{model.path}: embeddings of {tests.task!r} are not finite; merge again, or restore it")
        for protocol in PROTOCOLS:
            report.after_own[protocol].append(_accuracy(protocol, own, named, tests, i, heads[: i + 1], model.logit_scale))
            report.final[protocol].append(_accuracy(protocol, last, named, tests, i, heads, model.logit_scale))
        if last.own is not None and last.claimed is not None:
            report.own_route.append(100 * last.own.double().mean().item())
            report.unclaimed.append(100 * (~last.claimed).double().mean().item())
    progress("evaluate", len(sets), len(sets))
    return report


def reference_answers(tower: GatedTower, tests: LabelledSet, top_k: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings `[n, dim]` of a task's test images in the last state: along the route found, and with the task given."""
    model = tower.merged
    answering: Answering = LayerScope(tower, top_k, "image") if model.scope == "layer" else ImageScope(tower, top_k)
    return answering.routed(tests, len(model.tasks)).embeds.cpu().numpy(), answering.named(tests).cpu().numpy()


def _accuracy(
    protocol: str, routed: Routed, named: Tensor, tests: LabelledSet, task: int, heads: Sequence[Tensor], logit_scale: float
) -> float:
    labels = tests.labels.to(named.device)
    if protocol == "P3":
        owner, label = predict_among(routed.embeds, heads, logit_scale, routed.posterior, routed.claimed)
        correct = (owner == task) & (label == labels)
    else:
        correct = predict_within(routed.embeds if protocol == "P1" else named, heads[task]) == labels
    return 100 * correct.double().mean().item()


class ImageScope:
    """One route per image; embeddings under an expert do not depend on the state, routes do."""

    def __init__(self, tower: GatedTower, top_k: int) -> None:
        self.tower = tower
        self.top_k = top_k
        self._features: tuple[str, Tensor] | None = None
        self._routers = {len(tower.merged.tasks): tower.router}  # by the number of tasks there are

    @torch.inference_mode()
    def routed(self, tests: LabelledSet, count: int) -> Routed:
        """See `Answering`."""
        model = self.tower.merged
        names = model.task_names[:count]
        if (router := self._routers.get(count)) is None:
            router = self._routers[count] = model.select(names).router()  # of the depth that these tasks ask for
        features = self._router_features(tests).numpy()[:, : len(router.weight)]
        posterior, confidence = map(torch.from_numpy, router.posterior(features))
        claimed = confidence >= router.confidence_bound
        weights, tasks = posterior.topk(min(self.top_k, count), dim=1)
        weights = weights / weights.sum(1, keepdim=True)
        embeds = torch.zeros(len(tests.paths), self.tower.architecture.output_dim, device=self.tower.device)
        for task, chosen in self._groups(tasks, weights, claimed).items():
            for numbers in tests.batches(chosen):
                images = load_images([tests.paths[n] for n in numbers], self.tower.architecture)
                embeds[numbers] = self.tower.embed_mixture(images, [names[t] for t, _ in task], [c for _, c in task])
        own = claimed & (tasks[:, 0] == names.index(tests.task))
        on_device = self.tower.device
        return Routed(embeds, posterior.to(on_device), claimed.to(on_device), own)

    @torch.inference_mode()
    def named(self, tests: LabelledSet) -> Tensor:
        """See `Answering`."""
        batches = ([tests.paths[n] for n in numbers] for numbers in tests.batches())
        return torch.cat([self.tower.embed(load_images(paths, self.tower.architecture), tests.task) for paths in batches])

    def _groups(self, tasks: Tensor, weights: Tensor, claimed: Tensor) -> dict[tuple[tuple[int, float], ...], list[int]]:
        """Image numbers by route, a route being (task, weight) pairs and empty for the plain backbone."""
        groups: dict[tuple[tuple[int, float], ...], list[int]] = {}
        for n, (row, shares, is_claimed) in enumerate(zip(tasks.tolist(), weights.tolist(), claimed, strict=True)):
            route = tuple(zip(row, shares, strict=True)) if is_claimed else ()
            groups.setdefault(route, []).append(n)
        return groups

    def _router_features(self, tests: LabelledSet) -> Tensor:
        """Features `[n, F]` in float64 of the largest depth; they do not depend on the state and are kept for the next one."""
        if self._features is None or self._features[0] != tests.task:
            tower = self.tower
            count = deepest(tower.merged.settings.router_blocks, tower.architecture.layers)
            parts = []
            for numbers in tests.batches():
                images = load_images([tests.paths[n] for n in numbers], tower.architecture).to(tower.device)
                features = router_features(images, tower.backbone, tower.architecture, count)
                parts.append(features.double().cpu())
            self._features = (tests.task, torch.cat(parts))
        return self._features[1]


class LayerScope:
    """Routes inside the layers; an earlier state is the mask of its tasks."""

    def __init__(self, tower: GatedTower, top_k: int | None, pooling: Pooling) -> None:
        self.tower = tower
        self.top_k = top_k
        self.pooling = pooling

    def routed(self, tests: LabelledSet, count: int) -> Routed:
        """See `Answering`."""
        return Routed(self._embed(tests, set(self.tower.merged.task_names[:count])))

    def named(self, tests: LabelledSet) -> Tensor:
        """See `Answering`."""
        return self._embed(tests, {tests.task})

    def _embed(self, tests: LabelledSet, tasks: set[str]) -> Tensor:
        mask = torch.tensor([float(name in tasks) for name in self.tower.merged.task_names], device=self.tower.device)
        embeds = []
        for numbers in tests.batches():
            images = load_images([tests.paths[n] for n in numbers], self.tower.architecture)
            embeds.append(self.tower.embed_layers(images, self.top_k, mask, self.pooling)[0])
        return torch.cat(embeds)
