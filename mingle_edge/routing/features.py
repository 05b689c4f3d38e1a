"""What the image router learns of a task: features of mild variations of its calibration images."""

from __future__ import annotations

import torch

from mingle_edge.clip.vision_tower import router_features
from mingle_edge.core.errors import CheckpointError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.data.variations import mild_variations
from mingle_edge.experts.finetuned_task import PretrainedModel
from mingle_edge.routing.depth import deepest
from mingle_edge.routing.statistics import RouterStatistics

MOST_VARIATIONS = 1024  # images per task in all; more calibration_images need fewer variations each
BATCH = 64  # images


@torch.inference_mode()
def router_statistics(
    task: str, calibration_images: ImageSet, pretrained: PretrainedModel, settings: Settings, progress: Progress = silent
) -> RouterStatistics:
    """Return what the router keeps of a task, from its calibration images alone. It depends on no other task.

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
        images = mild_variations(calibration_images.load(numbers, architecture), count, architecture, generator).to(
            pretrained.device
        )
        of_batch = router_features(images.flatten(0, 1), pretrained.backbone, architecture, blocks)
        if not of_batch.isfinite().all():
            raise CheckpointError(
                f"the backbone's features of {calibration_images.paths[start]} or an image after it are not finite, so its "
                "weights are too large to compute with; use an undamaged checkpoint"
            )
        features.append(of_batch.reshape(len(numbers), 1 + count, -1).cpu())
        progress("router", numbers.stop, len(calibration_images))
    return RouterStatistics.from_features(torch.cat(features).numpy())
