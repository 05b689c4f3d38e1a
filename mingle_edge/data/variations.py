"""Mild variations of images: what router and experts learn from beside the calibration images themselves."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture

SHIFT = 1 / 16  # of the image's side, at most
TURN, ZOOM, DRIFT = 10.0, 0.15, 0.08  # degrees, logarithm, and share of the side, at most
GAIN, OFFSET, NOISE = 0.1, 0.05, 0.02  # contrast, brightness and noise on pixels in [0, 1]


def mild_variations(images: Tensor, count: int, architecture: VisionArchitecture, generator: torch.Generator) -> Tensor:
    """Return preprocessed images `[B, 3, H, W]`, each followed by `count` variations of it: `[B, 1 + count, 3, H, W]`.

    Shifted by up to a sixteenth of the side (edges repeated), with gain, offset and noise on the pixel values.
    """
    mean, std = _normalization(architecture)
    side = images.shape[-1]
    reach = max(1, round(side * SHIFT))
    varied = (images * std + mean).repeat_interleave(count, dim=0)  # [B count, 3, H, W], pixels in [0, 1]
    corners = torch.randint(0, 2 * reach + 1, (len(varied), 2), generator=generator)
    padded = F.pad(varied, [reach] * 4, mode="replicate")
    shifted = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners.tolist(), strict=True)]
    varied = torch.stack(shifted) if shifted else varied
    return _beside(images, _exposed(varied, generator), mean, std)


def turned_variations(images: Tensor, count: int, architecture: VisionArchitecture, generator: torch.Generator) -> Tensor:
    """Return preprocessed images `[B, 3, H, W]`, each followed by `count` variations of it: `[B, 1 + count, 3, H, W]`.

    Rotated by up to 10 degrees, zoomed by up to 15% and shifted by up to 8% of the side (bicubic, edges repeated), with gain,
    offset and noise on the pixel values: what another hand holding the camera changes.
    """
    mean, std = _normalization(architecture)
    varied = (images * std + mean).repeat_interleave(count, dim=0)  # [B count, 3, H, W], pixels in [0, 1]
    angle, zoom, right, down = (torch.rand(len(varied), 4, generator=generator) * 2 - 1).unbind(1)
    angle, zoom = angle * math.radians(TURN), (zoom * ZOOM).exp()
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    # Coordinates run from -1 to 1, so that a side is 2.
    rows = torch.stack([cosine, -sine, 2 * DRIFT * right, sine, cosine, 2 * DRIFT * down], dim=1).view(-1, 2, 3)
    if len(varied):
        grid = F.affine_grid(rows, list(varied.shape), align_corners=False)
        varied = F.grid_sample(varied, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)
    return _beside(images, _exposed(varied, generator), mean, std)


def _normalization(architecture: VisionArchitecture) -> tuple[Tensor, Tensor]:
    preprocess = architecture.preprocess
    return torch.tensor(preprocess.mean).view(3, 1, 1), torch.tensor(preprocess.std).view(3, 1, 1)


def _exposed(varied: Tensor, generator: torch.Generator) -> Tensor:
    """Return pixels in [0, 1] with another gain, offset and noise."""
    gain, offset = (torch.rand(len(varied), 1, 1, 1, generator=generator) * 2 - 1 for _ in range(2))
    noise = NOISE * torch.randn(varied.shape, generator=generator)
    return (varied * (1 + GAIN * gain) + OFFSET * offset + noise).clamp(0, 1)


def _beside(images: Tensor, varied: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.cat([images[:, None], ((varied - mean) / std).reshape(len(images), -1, *images.shape[1:])], dim=1)
