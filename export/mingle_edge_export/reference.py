"""What the graphs must compute, by the PyTorch implementation on images made from nothing. The export's only use of torch."""

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
MIXTURE = (0.625, 0.375)  # weights of the first two tasks


@dataclass(frozen=True)
class Routed:
    """Layer scope: embeddings `[n, dim]` and routes `[n, layers, k]`, of at least `GOLDEN_IMAGES` images."""

    embeds: Array
    tasks: NDArray[np.int64]
    weights: Array


@dataclass(frozen=True)
class Reference:
    """Outputs for the first n images, `[n, ...]`."""

    images: NDArray[np.uint8]  # [n, S, S, 3]
    pixels: Array  # [n, 3, S, S]
    plain: Array  # [n, dim], the backbone without experts
    experts: Mapping[str, Array]  # image scope: task -> [n, dim]
    mixture: Array | None  # image scope: the first two tasks by MIXTURE, [n, dim]
    posterior: Array | None  # image scope: [n, T]
    confidence: Array | None  # image scope: [n]
    routed: Mapping[int, Routed]  # layer scope: by top_k = 1 .. T

    def golden(self) -> dict[str, NDArray[Any]]:
        """The arrays of golden.npz."""
        n = GOLDEN_IMAGES
        if self.routed:
            return {
                "images": self.images[:n],
                "embeds": np.stack([self.routed[k].embeds[:n] for k in sorted(self.routed)]),
            }
        assert self.posterior is not None and self.confidence is not None
        return {
            "images": self.images[:n],
            "plain": self.plain[:n],
            "posterior": self.posterior[:n],
            "confidence": self.confidence[:n],
            "embeds": np.stack([embeds[:n] for embeds in self.experts.values()]),
        }


def compute_reference(merged: MergedModel, spec: Preprocess, progress: Progress) -> Reference:
    """Run the merged model in PyTorch on the CPU."""
    tower = GatedTower(merged)
    images = smooth_images(IMAGES, spec.image_size)
    pixels = preprocess(images, spec)
    x = torch.from_numpy(pixels)
    names = merged.task_names
    experts, routed = {}, {}
    mixture = posterior = confidence = None
    if merged.scope == "image":
        posterior, confidence = (value.float().numpy() for value in tower.route(x))
        for i, name in enumerate(names):
            progress("reference", i, len(names), name)
            experts[name] = tower.embed(x, name).numpy()
        if len(names) > 1:
            mixture = tower.embed_mixture(x, names[:2], MIXTURE).numpy()
    else:
        for k in range(1, len(names) + 1):
            progress("reference", k - 1, len(names), f"top {k}")
            count = IMAGES if k in compared_top_k(len(names)) else GOLDEN_IMAGES
            embeds, tasks, weights = tower.embed_layers(x[:count], k)
            routed[k] = Routed(embeds.numpy(), tasks.numpy(), weights.numpy())
    progress("reference", len(names), len(names))
    return Reference(images, pixels, tower.embed(x).numpy(), experts, mixture, posterior, confidence, routed)


def compared_top_k(tasks: int) -> list[int]:
    """The values of top_k at which graphs are compared with the reference on all images."""
    return sorted({1, min(2, tasks), tasks})
