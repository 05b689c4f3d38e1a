"""The image router for tasks that arrive one by one: the deployed one, with what depends on one task or image kept."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mingle_edge.comparison.method import TestBatch, Workbench
from mingle_edge.errors import TaskFileError
from mingle_edge.gate_learning import Learner
from mingle_edge.methods.image_rows import ImageRows
from mingle_edge.router import Discriminants, discriminants
from mingle_edge.router_depth import choose_depth, deepest
from mingle_edge.router_statistics import MOMENTS, RouterStatistics
from mingle_edge.settings import Settings
from mingle_edge.task_merging import seed_statistics
from mingle_edge.vision_tower import router_features


@dataclass(frozen=True)
class Route:
    """What the router says of a batch, on the workbench's device."""

    posterior: Tensor  # [n, T], float64
    claimed: Tensor  # [n]

    @property
    def tasks(self) -> Tensor:
        """The task each image goes to, `[n]`, -1 where none claims it."""
        return torch.where(self.claimed, self.posterior.argmax(1), -1)


class ImageRouter:
    """Knows the tasks merged so far by their seeds and by nothing else."""

    def __init__(self, workbench: Workbench, settings: Settings) -> None:
        self.workbench = workbench
        self.settings = settings
        layers = workbench.architecture.layers
        self.depth = deepest(settings.router_blocks, layers)
        if self.depth > layers:
            raise TaskFileError(
                f'router_blocks is {self.depth}, and the tower has {layers} blocks; give at most that, or "auto"'
            )
        self._keys: tuple[Hashable, ...] = ()  # of the tasks' statistics
        self._current: Discriminants | None = None
        self._rows = ImageRows.shared(workbench.kept)

    def add(self, learner: Learner) -> None:
        """Take the statistics of one more task. Raises `TaskFileError` for a task without seeds."""
        if not len(learner.seeds):
            raise TaskFileError(
                f"task {learner.task!r} has no seed images, and the image router knows a task by nothing else; give some"
            )
        settings = self.settings
        key = (learner.task, settings.seed, settings.router_blocks, settings.router_augmentations, *learner.seeds.paths)
        statistics = self._statistics()
        if key not in statistics:
            statistics[key] = seed_statistics(learner)
        self._keys = (*self._keys, key)
        self._current = None

    def route(self, batch: TestBatch) -> Route:
        """Where the images go. At least one task must have been added."""
        router = self._discriminants()
        features = self._rows.of(("router features", self.depth), batch, self._features)
        posterior, confidence = router.posterior(features[:, : len(router.weight)].double().cpu().numpy())
        claimed = torch.from_numpy(confidence >= router.confidence_bound)
        return Route(torch.from_numpy(posterior).to(self.workbench.device), claimed.to(self.workbench.device))

    def stored_bytes(self) -> int:
        """The router's matrices at 4 bytes a number; it reads blocks of the backbone and stores none of its own."""
        router = self._discriminants()
        arrays = [array for array in vars(router).values() if isinstance(array, np.ndarray)]
        return 4 * (sum(array.size for array in arrays) + 1)

    def _features(self, images: Tensor) -> Tensor:
        return router_features(images, self.workbench.backbone, self.workbench.architecture, self.depth)

    def _discriminants(self) -> Discriminants:
        """As a merged model has them. They depend on the tasks so far alone, so all methods on the workbench share them."""
        if self._current is None:
            kept: dict[tuple[Hashable, ...], Discriminants] = self.workbench.kept.setdefault("discriminants", {})
            if self._keys not in kept:
                statistics = [self._statistics()[key] for key in self._keys]
                per_depth = MOMENTS * self.workbench.architecture.width
                chosen = self.settings.router_blocks
                blocks = choose_depth(statistics, per_depth) if chosen == "auto" else chosen
                kept[self._keys] = discriminants([s.first((blocks + 1) * per_depth) for s in statistics])
            self._current = kept[self._keys]
        return self._current

    def _statistics(self) -> dict[Hashable, RouterStatistics]:
        found: dict[Hashable, RouterStatistics] = self.workbench.kept.setdefault("router statistics", {})
        return found
