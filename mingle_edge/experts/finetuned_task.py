"""The pretrained model and one task's fine-tuned one, in memory: what merging and its peers compute on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import Linear, Parameters, embed_images, normalize
from mingle_edge.data.image_set import ImageSet


@dataclass(frozen=True)
class PretrainedModel:
    """What all tasks share."""

    backbone: Parameters  # the complete vision tower by internal names, on the device
    architecture: VisionArchitecture
    device: torch.device

    def embed(self, images: Tensor, parameters: Parameters | None = None, linear: Linear | None = None) -> Tensor:
        """Return embeddings `[n, output_dim]`, as heads read them, of `[n, 3, H, W]` under the backbone or another tower."""
        tower = self.backbone if parameters is None else parameters
        return normalize(embed_images(images, tower, self.architecture, linear), self.architecture)

    def task_vector(self, finetuned: Parameters, layer: str) -> Tensor:
        """Return what fine-tuning changed of a linear layer's weight, `[d_out, d_in]`."""
        return finetuned[f"{layer}.weight"] - self.backbone[f"{layer}.weight"]


@dataclass(frozen=True)
class FinetunedTask:
    """One fine-tuned model, its head and its calibration images."""

    name: str
    finetuned: Parameters  # the complete vision tower by internal names, on the device
    head: Head  # on the device
    calibration_images: ImageSet  # unlabeled
    factors: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of layers whose task vector is known to be a product B A: layer -> B `[d_out, r]`, A `[r, d_in]`."""
