"""The image router for tasks that arrive one by one: the deployed one, with what depends on one task or image kept."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import router_features
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench, once
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import Settings
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.routing.depth import choose_depth, deepest
from mingle_edge.routing.features import router_statistics
from mingle_edge.routing.router import Router, fit_router
from mingle_edge.routing.statistics import MOMENTS


@dataclass(frozen=True)
class Route:
    """What the router says of a batch, on the workbench's device."""

    posterior: Tensor  # [n, T], float64
    claimed: Tensor  # [n]

    @property
    def tasks(self) -> Tensor:
        """Return the task each image goes to, `[n]`, -1 where none claims it."""
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

    def add(self, task: FinetunedTask) -> None:
        """Take the statistics of one more task. Raises `TaskFileError` for a task without seeds."""
        if not len(task.calibration_images):
            raise TaskFileError(
                f"task {task.name!r} has no seed images, and the image router knows a task by nothing else; give some"
            )
        settings = self.settings
        key = (task.name, settings.seed, settings.router_blocks, settings.router_augmentations, *task.calibration_images.paths)
        bench = self.workbench
        once(bench.kept.statistics, key, lambda: router_statistics(task.name, task.calibration_images, bench, settings))
        self._keys = (*self._keys, key)

    def route(self, batch: TestBatch) -> Route:
        """Say where the images go. At least one task must have been added."""
        router, bench = self._router(), self.workbench
        features = bench.kept.rows.of(
            ("router features", self.depth),
            batch,
            lambda images: router_features(images, bench.backbone, bench.architecture, self.depth),
        )
        posterior, confidence = router.posterior(features[:, : len(router.weight)].double().cpu().numpy())
        claimed = torch.from_numpy(confidence >= router.confidence_bound)
        return Route(torch.from_numpy(posterior).to(bench.device), claimed.to(bench.device))

    def stored_bytes(self) -> int:
        """Return the router's size at 4 bytes a number; it reads blocks of the backbone and stores none of its own."""
        arrays = [array for array in vars(self._router()).values() if isinstance(array, np.ndarray)]
        return 4 * (sum(array.size for array in arrays) + 1)

    def _router(self) -> Router:
        """Return the router that a merged model has. It depends on tasks alone, so all methods on the workbench share it."""
        return once(self.workbench.kept.routers, self._keys, self._fit)

    def _fit(self) -> Router:
        statistics = [self.workbench.kept.statistics[key] for key in self._keys]
        per_depth = MOMENTS * self.workbench.architecture.width
        chosen = self.settings.router_blocks
        blocks = choose_depth(statistics, per_depth) if chosen == "auto" else chosen
        return fit_router([s.first((blocks + 1) * per_depth) for s in statistics])
