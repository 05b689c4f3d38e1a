"""What the image router reads of an image, and what it learns of a task: variations of its calibration images."""

from __future__ import annotations

import torch
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import Parameters, block_moments
from mingle_edge.core.errors import CheckpointError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.data.variations import turned_variations
from mingle_edge.experts.finetuned_task import PretrainedModel
from mingle_edge.routing.depth import deepest
from mingle_edge.routing.pixel_statistics import pixel_statistics
from mingle_edge.routing.statistics import RouterStatistics

MOST_VARIATIONS = 1024  # images per task in all; more calibration_images need fewer variations each
BATCH = 64  # images


def router_features(
    images: Tensor, parameters: Parameters, architecture: VisionArchitecture, blocks: int, *, embedding: bool = True
) -> Tensor:
    """Return all that a cascade may read of images `[B, 3, H, W]`, `[B, F]` in the order of `Layout`.

    Statistics of the pixels, moments of the plain backbone's tokens up to so many blocks, and its embedding as heads read it,
    which may be left out.
    """
    moments = block_moments(images, parameters, architecture, blocks, embedding=embedding)
    return torch.cat([pixel_statistics(images, architecture.preprocess), moments], dim=1)


@torch.inference_mode()
def router_statistics(
    task: str,
    calibration_images: ImageSet,
    pretrained: PretrainedModel,
    settings: Settings,
    progress: Progress = silent,
    *,
    embedding: bool = True,
) -> RouterStatistics:
    """Return what the router keeps of a task, from its calibration images alone. It depends on no other task.

    embedding: whether the plain backbone's embedding is among the features; without it the blocks after those read do not run.

    Raises:
        CheckpointError: the backbone computes values that are not finite.
    """
    architecture = pretrained.architecture
    generator = task_generator(settings.seed, task, "router")
    blocks = deepest(settings.router_blocks, architecture.layers)
    count = min(settings.router_augmentations, max(1, MOST_VARIATIONS // len(calibration_images)))
    per_batch = max(1, BATCH // (1 + count))
    features = []
    for start in range(0, len(calibration_images), per_batch):
        numbers = range(start, min(start + per_batch, len(calibration_images)))
        images = turned_variations(calibration_images.load(numbers, architecture), count, architecture, generator).to(
            pretrained.device
        )
        of_batch = router_features(images.flatten(0, 1), pretrained.backbone, architecture, blocks, embedding=embedding)
        if not of_batch.isfinite().all():
            raise CheckpointError(
                f"the backbone's features of {calibration_images.paths[start]} or an image after it are not finite, so its "
                "weights are too large to compute with; use an undamaged checkpoint"
            )
        features.append(of_batch.reshape(len(numbers), 1 + count, -1).cpu())
        progress("router", numbers.stop, len(calibration_images))
    return RouterStatistics.from_features(torch.cat(features).numpy())
