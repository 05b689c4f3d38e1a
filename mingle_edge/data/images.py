"""Loading images as CLIP sees them, upright, with 8 bits per channel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.corruptions import Corruption
from mingle_edge.data.image_decoding import decode_image


def load_images(paths: Sequence[Path], architecture: VisionArchitecture, corruption: Corruption | None = None) -> Tensor:
    """Return images `[n, 3, H, W]` preprocessed by open_clip's transform for inference.

    A corruption is applied at the model's input size, before values are normalized.

    Raises:
        ImageFolderError: an image cannot be decoded.
    """
    spec = architecture.preprocess
    transform = open_clip.image_transform(spec.image_size, is_train=False, mean=spec.mean, std=spec.std)
    if corruption is not None:
        transform.transforms.insert(-2, corruption)  # what follows is the tensor of the RGB image, and normalization
    images = torch.empty(len(paths), 3, spec.image_size, spec.image_size)
    for row, path in zip(images, paths, strict=True):
        row.copy_(decode_image(path, transform))
    return images
