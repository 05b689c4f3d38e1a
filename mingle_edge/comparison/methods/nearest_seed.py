"""Control: this project's complete experts, the task that of the nearest seed in the plain backbone's final embedding.

Idea: an image belongs where the most similar unlabeled image does (the nearest-neighbor router of crisostomi/mass,
`nn_router.py`, there of one batch of training images a task). Limitation: the whole backbone runs before the expert does, the
seeds' embeddings are stored, one odd seed takes images away from other tasks, and no image is refused. Beside `image` it shows
what a router loses or gains that reads the first blocks alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench, once
from mingle_edge.comparison.methods.image_router import ImageRouter, Route
from mingle_edge.comparison.methods.image_scope import ImageScope
from mingle_edge.comparison.methods.towers import backbone_embeddings
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import Settings
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.routing.cascade import LargestLogits
from mingle_edge.routing.wrong_experts import WrongExperts


class NearestSeed(ImageRouter):
    """Knows a task by the final embeddings of its seeds."""

    def __init__(self, workbench: Workbench, settings: Settings) -> None:
        super().__init__(workbench, settings)
        self._seeds: list[Tensor] = []  # by task, [n, output_dim]

    def add(self, task: FinetunedTask, seen: WrongExperts | None = None) -> None:
        """Embed the seeds of one more task. Raises `TaskFileError` for a task without seeds."""
        images, bench = task.calibration_images, self.workbench
        if not len(images):
            raise TaskFileError(f"task {task.name!r} has no seed images, and no image can be nearest to one of them; give some")

        @torch.inference_mode()
        def embedded() -> Tensor:
            parts = images.batches(bench.architecture)
            return torch.cat([bench.embed(pixels.to(bench.device)) for _, pixels in parts])

        key: Hashable = ("final embeddings", *images.paths)
        self._seeds.append(once(bench.kept.embeds, key, embedded))

    def route(self, batch: TestBatch, largest_logits: LargestLogits | None = None) -> Route:
        """Say whose seed is nearest: the posterior is 1 there, and every image is claimed."""
        x = backbone_embeddings(batch, self.workbench).double()
        distances = torch.stack([torch.cdist(x, seeds.double()).amin(1) for seeds in self._seeds], dim=1)  # [n, T]
        posterior = torch.nn.functional.one_hot(distances.argmin(1), len(self._seeds)).double()
        return Route(posterior, torch.ones(len(x), dtype=torch.bool, device=x.device))

    def stored_bytes(self) -> int:
        """Return the bytes of the embeddings at 4 bytes a number."""
        return 4 * sum(seeds.numel() for seeds in self._seeds)


class NearestSeedScope(ImageScope):
    """The image scope with that router."""

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """See `ImageScope`."""
        super().__init__(workbench, parameters)
        self.router = NearestSeed(workbench, self.settings)
