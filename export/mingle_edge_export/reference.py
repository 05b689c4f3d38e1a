"""What the graphs must compute: the PyTorch implementation on images made from nothing. The export's only use of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mingle_edge.gated_tower import GatedTower
from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress
from mingle_edge_export.graph import Array
from mingle_edge_export.synthetic_images import smooth_images
from mingle_edge_runtime.bundle import Preprocess
from mingle_edge_runtime.preprocess import preprocess

IMAGES = 7
GOLDEN_IMAGES = 2  # of them, the first, travel with the bundle
MIXTURE = (0.5, 0.25)  # weights of the first two tasks; not 1 together, or the defaults would have no part in it


@dataclass(frozen=True)
class ImageScopeOutputs:
    """Of n images."""

    posterior: Array  # [n, T]
    confidence: Array  # [n]
    experts: Mapping[str, Array]  # task -> embeddings [n, dim] under its expert alone
    mixture: Array | None  # [n, dim], the first two tasks by MIXTURE; None where there is one task

    def golden(self, n: int) -> dict[str, Array]:
        """The first n of each, as golden.npz has them."""
        embeds = np.stack([embeds[:n] for embeds in self.experts.values()])
        return {"posterior": self.posterior[:n], "confidence": self.confidence[:n], "embeds": embeds}


@dataclass(frozen=True)
class Routed:
    """Layer scope: embeddings `[n, dim]` and routes `[n, layers, k]` at one top_k."""

    embeds: Array
    tasks: NDArray[np.int64]
    weights: Array


@dataclass(frozen=True)
class Reference:
    """The images and all outputs for them."""

    images: NDArray[np.uint8]  # [n, S, S, 3]
    pixels: Array  # [n, 3, S, S]
    plain: Array  # [n, dim], the backbone without experts
    by_image: ImageScopeOutputs | None  # image scope
    by_layer: Mapping[int, Routed]  # layer scope: top_k = 1 .. T; of fewer images where top_k is not `compared_top_k`
    folded: Array | None = None  # [n, dim], under the expert of the task that is folded into the weights

    def golden(self) -> dict[str, NDArray[Any]]:
        """The arrays of golden.npz."""
        n = GOLDEN_IMAGES
        if self.folded is not None:
            return {"images": self.images[:n], "embeds": self.folded[None, :n]}
        if self.by_image is not None:
            return {"images": self.images[:n], "plain": self.plain[:n], **self.by_image.golden(n)}
        return {"images": self.images[:n], "embeds": np.stack([routed.embeds[:n] for routed in self.by_layer.values()])}


def compared_top_k(tasks: int) -> list[int]:
    """The values of top_k at which graphs are compared with the reference on all images."""
    return sorted({1, min(2, tasks), tasks})


def compute_reference(merged: MergedModel, spec: Preprocess, fold: str | None, progress: Progress) -> Reference:
    """Run the merged model in PyTorch on the CPU. fold: the task to be folded, which alone is computed then."""
    images = smooth_images(IMAGES, spec.image_size)
    pixels = preprocess(images, spec)
    x = torch.from_numpy(pixels)
    tower = GatedTower(merged)
    plain = tower.embed(x).numpy()
    if fold is not None:
        return Reference(images, pixels, plain, None, {}, tower.embed(x, fold).numpy())
    by_image = _by_image(tower, x, progress) if merged.scope == "image" else None
    by_layer = _by_layer(tower, x, progress) if merged.scope == "layer" else {}
    return Reference(images, pixels, plain, by_image, by_layer)


def _by_image(tower: GatedTower, x: torch.Tensor, progress: Progress) -> ImageScopeOutputs:
    names = tower.merged.task_names
    posterior, confidence = (value.float().numpy() for value in tower.route(x))
    experts = {}
    for i, name in enumerate(names):
        progress("reference", i, len(names), name)
        experts[name] = tower.embed(x, name).numpy()
    mixture = tower.embed_mixture(x, names[:2], MIXTURE).numpy() if len(names) > 1 else None
    progress("reference", len(names), len(names))
    return ImageScopeOutputs(posterior, confidence, experts, mixture)


def _by_layer(tower: GatedTower, x: torch.Tensor, progress: Progress) -> dict[int, Routed]:
    count = len(tower.merged.tasks)
    outputs = {}
    for k in range(1, count + 1):
        progress("reference", k - 1, count, f"top {k}")
        embeds, tasks, weights = tower.embed_layers(x if k in compared_top_k(count) else x[:GOLDEN_IMAGES], k)
        outputs[k] = Routed(embeds.numpy(), tasks.numpy(), weights.numpy())
    progress("reference", count, count)
    return outputs
