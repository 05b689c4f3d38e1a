"""What a merged model answers for the test images of a task, in any state it has been in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import router_features
from mingle_edge.core.errors import MergedModelError
from mingle_edge.core.progress import Progress
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Pooling
from mingle_edge.evaluation.answers import Answers, TaskAccuracy, measure
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge.routing.depth import deepest

KEPT_BYTES = 1 << 28  # of one task's preprocessed images, which are gone through several times


class Answering(Protocol):
    """How one scope answers for all test images of a task."""

    def answers(self, task: str, images: ImageSet, count: int) -> Answers:
        """Answer in the state after the first `count` tasks, which the images' task is among; only that is not told."""

    def named(self, task: str, images: ImageSet) -> Tensor:
        """Return embeddings `[n, dim]` with the task given, the same in every state."""


def measure_history(
    tower: GatedTower, tests: Mapping[str, ImageSet], top_k: int | None, pooling: Pooling, progress: Progress
) -> Iterator[tuple[TaskAccuracy, TaskAccuracy]]:
    """Yield, for every task of a model, what it gets right of its test images after its own merge and after the last.

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
        self._features: tuple[str, Tensor] | None = None
        self._routers = {len(tower.merged.tasks): tower.router}  # by the number of tasks there are

    @torch.inference_mode()
    def answers(self, task: str, images: ImageSet, count: int) -> Answers:
        """See `Answering`."""
        tower, names = self.tower, self.tower.merged.task_names[:count]
        if (router := self._routers.get(count)) is None:
            router = self._routers[count] = tower.merged.select(names).router()  # of the depth that these tasks ask for
        features = self._router_features(task, images).numpy()[:, : len(router.weight)]
        posterior, confidence = map(torch.from_numpy, router.posterior(features))
        claimed = confidence >= router.confidence_bound
        weights, tasks = posterior.topk(min(self.top_k, count), dim=1)
        weights = weights / weights.sum(1, keepdim=True)
        embeds = torch.zeros(len(images), tower.architecture.output_dim, device=tower.device)
        for route, chosen in _by_route(tasks, weights, claimed).items():
            for numbers, pixels in images.batches(tower.architecture, chosen):
                embeds[numbers] = tower.embed_mixture(pixels, [names[t] for t, _ in route], [share for _, share in route])
        routed = torch.where(claimed, tasks[:, 0], -1)
        return Answers(embeds, *(column.to(tower.device) for column in (posterior, claimed, routed)))

    @torch.inference_mode()
    def named(self, task: str, images: ImageSet) -> Tensor:
        """See `Answering`."""
        return torch.cat([self.tower.embed(pixels, task) for _, pixels in images.batches(self.tower.architecture)])

    def _router_features(self, task: str, images: ImageSet) -> Tensor:
        """Return features `[n, F]` in float64 of the largest depth, kept for the next state, which they do not depend on."""
        if self._features is None or self._features[0] != task:
            tower = self.tower
            count = deepest(tower.merged.settings.router_blocks, tower.architecture.layers)
            parts = [
                router_features(pixels.to(tower.device), tower.backbone, tower.architecture, count).double().cpu()
                for _, pixels in images.batches(tower.architecture)
            ]
            self._features = (task, torch.cat(parts))
        return self._features[1]


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
