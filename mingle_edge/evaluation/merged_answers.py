"""What a merged model answers for the test images of a task, in any state it has been in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.core.errors import MergedModelError
from mingle_edge.core.progress import Progress
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Pooling
from mingle_edge.evaluation.answers import Answers, TaskAccuracy, measure, predict_within
from mingle_edge.evaluation.router_figures import RoutedImages
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge.routing.calibration import left_out
from mingle_edge.routing.cascade import Cascade, decide
from mingle_edge.routing.outlook import routers_without
from mingle_edge.routing.router import Router

KEPT_BYTES = 1 << 28  # of one task's preprocessed images, which are gone through several times


class Answering(Protocol):
    """How one scope answers for all test images of a task."""

    def answers(self, task: str, images: ImageSet, count: int) -> Answers:
        """Answer in the state after the first `count` tasks, which the images' task is among; only that is not told."""

    def named(self, task: str, images: ImageSet) -> Tensor:
        """Return embeddings `[n, dim]` with the task given, the same in every state."""


def measure_history(
    tower: GatedTower, tests: Mapping[str, ImageSet], top_k: int | None, pooling: Pooling, progress: Progress
) -> Iterator[tuple[TaskAccuracy, TaskAccuracy, RoutedImages | None]]:
    """Yield, for every task of a model, what it gets right of its test images after its own merge and after the last.

    In the image scope also what the router of all tasks says of them.

    Raises:
        MergedModelError: the model computes embeddings that are not finite.
    """
    model, scope = tower.merged, answering(tower, top_k, pooling)
    heads = [Head.of(model.head(name)).to(tower.device) for name in model.task_names]
    for number, (task, images) in enumerate(tests.items()):
        progress("evaluate", number, len(heads), task)
        images = images.kept(KEPT_BYTES)  # until the next task
        named = scope.named(task, images)
        own = scope.answers(task, images, number + 1)
        last = scope.answers(task, images, len(heads)) if number + 1 < len(heads) else own
        if not all(bool(embeds.isfinite().all()) for embeds in (named, own.embeds, last.embeds)):
            raise MergedModelError(f"{model.path}: embeddings of {task!r} are not finite; merge again, or restore it")
        yield (
            measure(own, named, images.labels, number, heads, number + 1),
            measure(last, named, images.labels, number, heads, len(heads)),
            scope.routed(number, images, last) if isinstance(scope, ImageScope) else None,
        )
    progress("evaluate", len(heads), len(heads))


def answering(tower: GatedTower, top_k: int | None, pooling: Pooling = "image") -> Answering:
    """Return how a model's scope answers, with `top_k` experts per image (1 if None) or per layer (all if None)."""
    return LayerScope(tower, top_k, pooling) if tower.merged.scope == "layer" else ImageScope(tower, top_k or 1)


def reference_answers(
    tower: GatedTower, task: str, images: ImageSet, top_k: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return embeddings `[n, dim]` of a task's images in the last state: along the route found, and with the task given."""
    scope = answering(tower, top_k)
    routed = scope.answers(task, images, len(tower.merged.tasks)).embeds
    return routed.cpu().numpy(), scope.named(task, images).cpu().numpy()


class ImageScope:
    """One route per image; embeddings under an expert do not depend on the state, routes do."""

    def __init__(self, tower: GatedTower, top_k: int) -> None:
        self.tower = tower
        self.top_k = top_k
        self._kept: tuple[str, NDArray[np.float64]] | None = None  # task and its images' features
        self._cascades: dict[int, Cascade] = {}  # by the number of tasks there are

    @torch.inference_mode()
    def answers(self, task: str, images: ImageSet, count: int) -> Answers:
        """See `Answering`."""
        tower, names = self.tower, self.tower.merged.task_names[:count]
        cascade = self.cascade(count)
        features = self._features(task, images)
        of_stages = [features[:, columns] for columns in tower.merged.layout.of_stages(cascade)]
        decisions = decide(cascade, of_stages, partial(self._largest_logits, images, names))
        claimed = torch.from_numpy(decisions.choice < count)
        order = torch.from_numpy(np.argsort(decisions.expected[:, :count], axis=1, kind="stable"))
        tasks = torch.where(claimed[:, None], order, 0)[:, : min(self.top_k, count)]  # [n, k]
        if self.top_k == 1:
            tasks = torch.from_numpy(np.where(decisions.choice < count, decisions.choice, 0))[:, None]
        posterior = torch.from_numpy(decisions.posterior)
        weights = posterior.gather(1, tasks)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-30)
        embeds = torch.zeros(len(images), tower.architecture.output_dim, device=tower.device)
        for route, chosen in _by_route(tasks, weights, claimed).items():
            for numbers, pixels in images.batches(tower.architecture, chosen):
                embeds[numbers] = tower.embed_mixture(pixels, [names[t] for t, _ in route], [share for _, share in route])
        routed = torch.where(claimed, tasks[:, 0], -1)
        stages = torch.from_numpy(decisions.stage)
        confidence = torch.from_numpy(decisions.confidence)
        return Answers(embeds, *(column.to(tower.device) for column in (posterior, claimed, routed, stages, confidence)))

    @torch.inference_mode()
    def named(self, task: str, images: ImageSet) -> Tensor:
        """See `Answering`."""
        return torch.cat([self.tower.embed(pixels, task) for _, pixels in images.batches(self.tower.architecture)])

    def routed(self, number: int, images: ImageSet, last: Answers) -> RoutedImages:
        """Return what the router says of a task's images, from the answers `last` in the last state."""
        merged, tower = self.tower.merged, self.tower
        task, head = merged.task_names[number], Head.of(merged.head(merged.task_names[number])).to(tower.device)
        plain = torch.cat([tower.embed(pixels) for _, pixels in images.batches(tower.architecture)])
        right = predict_within(plain, head).cpu() == torch.as_tensor(images.labels)
        foreign = refused = None
        if number < len(self._without):
            columns = merged.layout.of_stages(self.cascade(len(merged.tasks)))[-1]
            router = self._without[number]
            _, foreign = router.posterior(self._features(task, images)[:, columns])
            refused = float((foreign < router.confidence_bound).mean())
        posterior, confidence, stages = (
            column.cpu().numpy() for column in (last.posterior, last.confidence, last.stages) if column is not None
        )
        return RoutedImages(number, posterior, confidence, stages, foreign, refused, 100 * float(right.double().mean()))

    @cached_property
    def _without(self) -> list[Router]:
        """Return, for each task, a router of all others, at the last stage; none of two tasks or fewer."""
        merged = self.tower.merged
        columns = merged.layout.of_stages(self.cascade(len(merged.tasks)))[-1]
        statistics = [merged.router_statistics(name).columns(columns) for name in merged.task_names]
        images = left_out(statistics) if len(statistics) > 2 else None
        refused = merged.settings.refused
        return [] if images is None else [router for router, _ in routers_without(statistics, images, refused)]

    def cascade(self, count: int) -> Cascade:
        """Return the router of the first so many tasks, which only they decide."""
        if count not in self._cascades:
            merged = self.tower.merged
            whole = count == len(merged.tasks)
            cascade = self.tower.cascade if whole else merged.select(merged.task_names[:count]).cascade()
            self._cascades[count] = cascade if self.top_k == 1 else cascade.without_judge()
        return self._cascades[count]

    def _features(self, task: str, images: ImageSet) -> NDArray[np.float64]:
        """Return router features `[n, F]`, kept for the next state, which they do not depend on."""
        if self._kept is None or self._kept[0] != task:
            tower = self.tower
            parts = [tower.router_features(pixels) for _, pixels in images.batches(tower.architecture)]
            self._kept = (task, np.concatenate(parts))
        return self._kept[1]

    def _largest_logits(
        self, images: ImageSet, names: Sequence[str], numbers: NDArray[np.int64], tasks: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Run the experts that a judge asks for; see `LargestLogits`."""
        tower, largest = self.tower, np.zeros(tasks.shape)
        for task in np.unique(tasks):
            head = Head.of(tower.merged.head(names[task])).to(tower.device)
            rows, column = np.nonzero(tasks == task)
            batches = images.batches(tower.architecture, numbers[rows].tolist())
            logits = [head.logits(tower.embed(pixels, names[task])).amax(1) for _, pixels in batches]
            largest[rows, column] = torch.cat(logits).double().cpu().numpy()
        return largest


class LayerScope:
    """Routes inside the layers; an earlier state is the mask of its tasks."""

    def __init__(self, tower: GatedTower, top_k: int | None, pooling: Pooling) -> None:
        self.tower = tower
        self.top_k = top_k
        self.pooling = pooling

    def answers(self, task: str, images: ImageSet, count: int) -> Answers:
        """See `Answering`."""
        return Answers(self._embed(images, self.tower.merged.task_names[:count]))

    def named(self, task: str, images: ImageSet) -> Tensor:
        """See `Answering`."""
        return self._embed(images, [task])

    def _embed(self, images: ImageSet, tasks: Sequence[str]) -> Tensor:
        tower = self.tower
        mask = torch.tensor([float(name in tasks) for name in tower.merged.task_names], device=tower.device)
        batches = images.batches(tower.architecture)
        return torch.cat([tower.embed_layers(pixels, self.top_k, mask, self.pooling)[0] for _, pixels in batches])


def _by_route(tasks: Tensor, weights: Tensor, claimed: Tensor) -> dict[tuple[tuple[int, float], ...], list[int]]:
    """Group image numbers by route, a route being (task, weight) pairs and empty for the plain backbone."""
    groups: dict[tuple[tuple[int, float], ...], list[int]] = {}
    for number, (row, shares, is_claimed) in enumerate(zip(tasks.tolist(), weights.tolist(), claimed, strict=True)):
        groups.setdefault(tuple(zip(row, shares, strict=True)) if is_claimed else (), []).append(number)
    return groups
