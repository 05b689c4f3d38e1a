"""What the image router learns of a task: features of mild variations of its calibration images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import router_features
from mingle_edge.core.errors import CheckpointError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.experts.finetuned_task import PretrainedModel
from mingle_edge.routing.depth import deepest
from mingle_edge.routing.statistics import RouterStatistics

MOST_VARIATIONS = 1024  # images per task in all; more calibration_images need fewer variations each
SHIFT = 1 / 16  # of the image's side, at most
GAIN, OFFSET, NOISE = 0.1, 0.05, 0.02  # contrast, brightness and noise on pixels in [0, 1]
BATCH = 64  # images


def mild_variations(images: Tensor, count: int, architecture: VisionArchitecture, generator: torch.Generator) -> Tensor:
    """Return preprocessed images `[B, 3, H, W]`, each followed by `count` variations of it: `[B, 1 + count, 3, H, W]`.

    Shifted by up to a sixteenth of the side (edges repeated), with gain, offset and noise on the pixel values.
    """
    mean = torch.tensor(architecture.preprocess.mean).view(3, 1, 1)
    std = torch.tensor(architecture.preprocess.std).view(3, 1, 1)
    side = images.shape[-1]
    reach = max(1, round(side * SHIFT))
    varied = (images * std + mean).repeat_interleave(count, dim=0)  # [B count, 3, H, W], pixels in [0, 1]
    corners = torch.randint(0, 2 * reach + 1, (len(varied), 2), generator=generator)
    padded = F.pad(varied, [reach] * 4, mode="replicate")
    shifted = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners.tolist(), strict=True)]
    varied = torch.stack(shifted) if shifted else varied
    gain, offset = (torch.rand(len(varied), 1, 1, 1, generator=generator) * 2 - 1 for _ in range(2))
    noise = NOISE * torch.randn(varied.shape, generator=generator)
    varied = (varied * (1 + GAIN * gain) + OFFSET * offset + noise).clamp(0, 1)
    return torch.cat([images[:, None], ((varied - mean) / std).reshape(len(images), count, *images.shape[1:])], dim=1)


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
