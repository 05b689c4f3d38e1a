"""Whole towers: embeddings under one, those of the pretrained one kept for all methods, and what one takes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mingle_edge.comparison.method import TestBatch, Workbench
from mingle_edge.methods.image_rows import ImageRows
from mingle_edge.vision_tower import Linear, Parameters, embed_images


def unit_embeddings(images: Tensor, parameters: Parameters, workbench: Workbench, linear: Linear | None = None) -> Tensor:
    """Embeddings `[n, output_dim]` of unit length of images `[n, 3, H, W]`."""
    return F.normalize(embed_images(images, parameters, workbench.architecture, linear), dim=-1)


def backbone_embeddings(batch: TestBatch, workbench: Workbench, places: list[int] | None = None) -> Tensor:
    """The pretrained model's embeddings `[n, output_dim]` of the images at these places of the batch, or of all; kept."""
    rows = ImageRows.shared(workbench.kept)
    return rows.of("backbone", batch, lambda images: unit_embeddings(images, workbench.backbone, workbench), places)


def tower_bytes(parameters: Parameters) -> int:
    """What one tower takes at 4 bytes a parameter."""
    return 4 * sum(value.numel() for value in parameters.values())
