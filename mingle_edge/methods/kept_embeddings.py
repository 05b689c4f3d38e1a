"""Embeddings under models that no order of tasks changes, computed once for all orders and methods of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.comparison.method import TestBatch, Workbench
from mingle_edge.vision_tower import Parameters, embed_images

KEPT_BYTES = 1 << 30  # of embeddings on one workbench: half a million images of 512 numbers
BACKBONE = None
"""Names the pretrained model; every other model kept is a task's own, by the task's name."""


@dataclass
class KeptEmbeddings:
    """Embeddings by test set, images and model, in main memory.

    Once full it keeps what it has: every order asks for the same batches in turn, so giving up old ones would lose them all.
    """

    entries: dict[tuple[str, tuple[int, ...], str | None], Tensor] = field(default_factory=dict)
    bytes: int = 0


def kept_embeddings(workbench: Workbench, batch: TestBatch, model: str | None, parameters: Parameters) -> Tensor:
    """Embeddings `[n, output_dim]` of unit length under `parameters`, which are those of `model` (a task, or `BACKBONE`)."""
    kept: KeptEmbeddings = workbench.kept.setdefault("embeddings", KeptEmbeddings())
    key = (batch.source, tuple(batch.numbers), model)
    known = kept.entries.get(key)
    if known is not None:
        return known.to(workbench.device)
    embeds = embed_normalised(batch.images, parameters, workbench)
    if kept.bytes + embeds.nbytes <= KEPT_BYTES:
        kept.entries[key] = embeds.cpu()
        kept.bytes += embeds.nbytes
    return embeds


@torch.inference_mode()
def embed_normalised(images: Tensor, parameters: Parameters, workbench: Workbench) -> Tensor:
    """Embeddings `[n, output_dim]` of unit length of images `[n, 3, H, W]`."""
    return F.normalize(embed_images(images, parameters, workbench.architecture), dim=-1)


def tower_bytes(parameters: Parameters) -> int:
    """What one tower takes at 4 bytes a parameter."""
    return 4 * sum(value.numel() for value in parameters.values())
