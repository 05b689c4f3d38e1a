"""Loading images as a device does, in the pixel values that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.corruptions import Corruption
from mingle_edge.data.image_decoding import decode_image
from mingle_edge_runtime.images.preprocess import normalized, resized


def load_images(paths: Sequence[Path], architecture: VisionArchitecture, corruption: Corruption | None = None) -> Tensor:
    """Return images `[n, 3, H, W]` preprocessed as the architecture says.

    A corruption is applied at the model's input size, before values are normalized.

    Raises:
        ImageFolderError: an image cannot be decoded.
    """
    spec = architecture.preprocess
    images = torch.empty(len(paths), 3, spec.image_size, spec.image_size)
    for row, path in zip(images, paths, strict=True):
        picture = decode_image(path, lambda opened: resized(opened, spec, "it"))
        if corruption is not None:
            picture = corruption(picture)
        row.copy_(torch.from_numpy(normalized(picture, spec)))
    return images
