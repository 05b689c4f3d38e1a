"""The image router for tasks that arrive one by one: the deployed one, with what depends on one task or image kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench, once
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import Settings
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.routing.cascade import Cascade, LargestLogits, decide
from mingle_edge.routing.cascade_fit import fit_cascade
from mingle_edge.routing.depth import choose_depth, deepest
from mingle_edge.routing.features import router_features, router_statistics
from mingle_edge.routing.layout import PIXELS, Layout
from mingle_edge.routing.pixel_statistics import pixel_statistics
from mingle_edge.routing.wrong_experts import WrongExperts


@dataclass(frozen=True)
class Route:
    """What the router says of a batch, on the workbench's device."""

    posterior: Tensor  # [n, T], float64
    claimed: Tensor  # [n]
    chosen: Tensor | None = None  # [n], the task that is expected to lose least; the most probable where None

    @property
    def tasks(self) -> Tensor:
        """Return the task each image goes to, `[n]`, -1 where none claims it."""
        return torch.where(self.claimed, self.posterior.argmax(1) if self.chosen is None else self.chosen, -1)


class ImageRouter:
    """Knows the tasks merged so far by their seeds, and by what experts did to these where it is told."""

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
        self._names: tuple[str, ...] = ()
        self._seen: tuple[WrongExperts, ...] = ()
        self._cascade: Cascade | None = None  # of the tasks so far

    def add(self, task: FinetunedTask, seen: WrongExperts | None = None) -> None:
        """Take the statistics of one more task. Raises `TaskFileError` for a task without seeds."""
        if not len(task.calibration_images):
            raise TaskFileError(
                f"task {task.name!r} has no seed images, and the image router knows a task by nothing else; give some"
            )
        settings = self.settings
        key = (task.name, settings.seed, settings.router_blocks, settings.router_augmentations, *task.calibration_images.paths)
        bench = self.workbench
        once(bench.kept.statistics, key, lambda: router_statistics(task.name, task.calibration_images, bench, settings))
        self._keys, self._names = (*self._keys, key), (*self._names, task.name)
        self._seen = (*self._seen, seen or WrongExperts())
        self._cascade = None

    def route(self, batch: TestBatch, largest_logits: LargestLogits | None = None) -> Route:
        """Say where the images go. At least one task must have been added.

        largest_logits: runs experts for the judge; without it there is none.
        """
        cascade, bench = self._router(), self.workbench
        if largest_logits is None:
            cascade = cascade.without_judge()
        layout = Layout.of(bench.architecture, self.depth)
        features = [
            _Features(self, batch, None if stage.name == "pixels" else columns)
            for stage, columns in zip(cascade.stages, layout.of_stages(cascade), strict=True)
        ]
        decisions = decide(cascade, features, largest_logits or _no_expert)
        claimed = torch.from_numpy(decisions.choice < len(self._keys))
        parts = (torch.from_numpy(decisions.posterior), claimed, torch.from_numpy(decisions.choice))
        return Route(*(part.to(bench.device) for part in parts))

    def stored_bytes(self) -> int:
        """Return the router's size at 4 bytes a number; it reads blocks of the backbone and stores none of its own."""
        routers = [stage.router for stage in self._router().stages]
        arrays = [array for router in routers for array in vars(router).values() if isinstance(array, np.ndarray)]
        return 4 * (sum(array.size for array in arrays) + len(routers))

    def _router(self) -> Cascade:
        """Return the router that a merged model of these tasks has."""
        if self._cascade is None:
            key = (*self._keys, *(repr(seen) for seen in self._seen))
            self._cascade = once(self.workbench.kept.cascades, key, self._fit)
        return self._cascade

    def _fit(self) -> Cascade:
        statistics = [self.workbench.kept.statistics[key] for key in self._keys]
        layout, chosen = Layout.of(self.workbench.architecture, self.depth), self.settings.router_blocks
        blocks = choose_depth(statistics, layout) if chosen == "auto" else chosen
        alone = [None] * len(statistics)
        return fit_cascade(statistics, layout, blocks, self._names, self._seen, alone, self.settings.refused)


@dataclass(frozen=True)
class _Features:
    """The features of one stage, of the images that reach it: the plain backbone runs for no other."""

    router: ImageRouter
    batch: TestBatch
    columns: NDArray[np.int64] | None  # of all features; None: the statistics of the pixels

    def __len__(self) -> int:
        return len(self.batch.numbers)

    def __getitem__(self, numbers: NDArray[np.int64], /) -> NDArray[np.float64]:
        if not len(numbers):
            return np.empty((0, PIXELS if self.columns is None else len(self.columns)))
        bench, depth = self.router.workbench, self.router.depth
        if self.columns is None:
            key: Hashable = "pixel statistics"
            compute: Callable[[Tensor], Tensor] = partial(pixel_statistics, preprocess=bench.architecture.preprocess)
        else:
            key = ("router features", depth)
            compute = partial(router_features, parameters=bench.backbone, architecture=bench.architecture, blocks=depth)
        rows = bench.kept.rows.of(key, self.batch, compute, numbers.tolist()).double().cpu().numpy()
        return rows if self.columns is None else rows[:, self.columns]


def _no_expert(numbers: NDArray[np.int64], tasks: NDArray[np.int64]) -> NDArray[np.float64]:
    raise AssertionError("a cascade without a judge runs no expert")
