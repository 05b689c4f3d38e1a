"""Mild variations of images: what router and experts learn from beside the calibration images themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture

SHIFT = 1 / 16  # of the image's side, at most
GAIN, OFFSET, NOISE = 0.1, 0.05, 0.02  # contrast, brightness and noise on pixels in [0, 1]


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
