"""Control: this project's complete experts, the task by discriminants of the plain backbone's final embedding.

Idea: the arithmetic of the image router (regularized discriminants from each task's mean and scatter, and a bound below which
an image is no task's) on the embedding that the backbone ends in, in place of moments of its first blocks: what a frozen
backbone allows when all of it runs before the expert does. Limitation: two passes for each image; the embedding was trained to
tell contents apart, and tasks that share contents and differ in how their images look may be nearer there than in the
first blocks.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench, once
from mingle_edge.comparison.methods.image_router import ImageRouter, Route
from mingle_edge.comparison.methods.image_scope import ImageScope
from mingle_edge.comparison.methods.towers import backbone_embeddings
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.settings import Settings
from mingle_edge.data.variations import turned_variations
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.routing.calibration import calibrated, left_out
from mingle_edge.routing.cascade import LargestLogits
from mingle_edge.routing.features import MOST_VARIATIONS
from mingle_edge.routing.router import Router, fit_router
from mingle_edge.routing.statistics import RouterStatistics
from mingle_edge.routing.wrong_experts import WrongExperts


class FinalDiscriminants(ImageRouter):
    """Knows a task by statistics of its seeds' final embeddings, and of those of variations of them."""

    def __init__(self, workbench: Workbench, settings: Settings) -> None:
        super().__init__(workbench, settings)
        self._statistics: list[RouterStatistics] = []  # by task
        self._fitted: Router | None = None  # of the tasks so far

    def add(self, task: FinetunedTask, seen: WrongExperts | None = None) -> None:
        """Take the statistics of one more task. Raises `TaskFileError` for a task without seeds."""
        images, settings = task.calibration_images, self.settings
        if not len(images):
            raise TaskFileError(
                f"task {task.name!r} has no seed images, and discriminants know a task by nothing else; give some"
            )
        key: Hashable = ("final embeddings", task.name, settings.seed, settings.router_augmentations, *images.paths)
        self._statistics.append(
            once(self.workbench.kept.statistics, key, lambda: final_statistics(task, self.workbench, settings))
        )
        self._fitted = None

    def route(self, batch: TestBatch, largest_logits: LargestLogits | None = None) -> Route:
        """See `ImageRouter`."""
        x = backbone_embeddings(batch, self.workbench)
        router = self._discriminants()
        posterior, confidence = router.posterior(x.double().cpu().numpy())
        claimed = torch.from_numpy(confidence >= router.confidence_bound)
        return Route(torch.from_numpy(posterior).to(x.device), claimed.to(x.device))

    def stored_bytes(self) -> int:
        """Return the size of the discriminants at 4 bytes a number."""
        arrays = [array for array in vars(self._discriminants()).values() if isinstance(array, np.ndarray)]
        return 4 * (sum(array.size for array in arrays) + 1)

    def _discriminants(self) -> Router:
        self._fitted = self._fitted or _calibrated(self._statistics, self.settings.refused)
        return self._fitted


def _calibrated(statistics: Sequence[RouterStatistics], refused: float) -> Router:
    router, images = fit_router(statistics), left_out(statistics)
    return router if images is None else calibrated(router, images, refused)


@torch.inference_mode()
def final_statistics(task: FinetunedTask, workbench: Workbench, settings: Settings) -> RouterStatistics:
    """Return the statistics of the plain backbone's embeddings of a task's seeds and their variations."""
    generator = task_generator(settings.seed, task.name, "router")
    images, architecture = task.calibration_images, workbench.architecture
    count = min(settings.router_augmentations, max(1, MOST_VARIATIONS // len(images)))
    embeds = []
    for number in range(len(images)):
        varied = turned_variations(
            images.load([number], architecture), count, architecture, generator
        )  # [1, 1 + count, 3, H, W]
        embeds.append(workbench.embed(varied.flatten(0, 1).to(workbench.device)).cpu())
    return RouterStatistics.from_features(np.stack([rows.numpy() for rows in embeds]))  # [n, 1 + count, output_dim]


class FinalDiscriminantScope(ImageScope):
    """The image scope with that router."""

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """See `ImageScope`."""
        super().__init__(workbench, parameters)
        self.router = FinalDiscriminants(workbench, self.settings)
