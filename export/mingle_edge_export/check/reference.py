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
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_export.graph.builder import Array
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
    claimed: Array  # [GOLDEN_IMAGES, dim], under the top_k most probable tasks' experts

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
    by_layer: Mapping[int, Routed]  # layer scope: top_k = 1, 2, as exported, and T
    golden_top_k: tuple[int, ...]  # layer scope: those of golden.npz
    folded: Array | None  # [n, dim], under the expert of the task that is folded into the weights
    probabilities: Array  # [1 or 2, GOLDEN_IMAGES, labels of all tasks], as golden.npz has them

    def golden(self) -> dict[str, NDArray[Any]]:
        """The arrays of golden.npz."""
        n = GOLDEN_IMAGES
        golden: dict[str, NDArray[Any]] = {"images": self.images[:n], "probabilities": self.probabilities}
        if self.folded is not None:
            return golden | {"embeds": self.folded[None, :n]}
        if self.by_image is not None:
            return golden | {"plain": self.plain[:n], **self.by_image.golden(n)}
        return golden | {"embeds": np.stack([self.by_layer[k].embeds[:n] for k in self.golden_top_k])}


def compute_reference(merged: MergedModel, spec: Preprocess, fold: str | None, top_k: int, progress: Progress) -> Reference:
    """Run the merged model in PyTorch on the CPU.

    fold: the task to be folded, which alone is computed then. top_k: experts of an image when nothing is given.
    """
    tower = GatedTower(merged)
    images = smooth_images(IMAGES, spec.image_size)
    if merged.scope == "image" and fold is None:
        images = images[_surest_first(tower, torch.from_numpy(preprocess(images, spec)), top_k)]
    pixels = preprocess(images, spec)
    x = torch.from_numpy(pixels)
    plain = tower.embed(x).numpy()
    if fold is not None:
        embeds = tower.embed(x, fold).numpy()
        return Reference(images, pixels, plain, None, {}, (), embeds, _among_all(merged, embeds)[None])
    if merged.scope == "layer":
        by_layer = _by_layer(tower, x, top_k, progress)
        golden_top_k = tuple(sorted({top_k, len(merged.tasks)}))
        return Reference(
            images, pixels, plain, None, by_layer, golden_top_k, None, _among_all(merged, by_layer[top_k].embeds)[None]
        )
    by_image = _by_image(tower, x, top_k, progress)
    claimed = _by_task(merged, by_image.claimed, by_image.posterior)
    return Reference(images, pixels, plain, by_image, {}, (), None, np.stack([claimed, _among_all(merged, plain)]))


def _surest_first(tower: GatedTower, x: torch.Tensor, top_k: int) -> NDArray[np.int64]:
    """The order of images in which those come first whose `top_k` tasks are farthest from being others."""
    posterior = np.sort(tower.route(x)[0].numpy(), axis=1)[:, ::-1]  # [n, T], largest first
    others = posterior[:, top_k] if top_k < posterior.shape[1] else 0.0
    return np.argsort(others - posterior[:, top_k - 1], kind="stable")


def _by_task(merged: MergedModel, embeds: Array, posterior: Array) -> Array:
    """Labels of all tasks, `[GOLDEN_IMAGES, labels]`: the posterior of the task times the softmax within its head."""
    parts = zip(merged.task_names, posterior.T[:, :GOLDEN_IMAGES], strict=True)
    return np.concatenate([p[:, None] * _softmax(_scores(merged, task, embeds)) for task, p in parts], axis=1)


def _among_all(merged: MergedModel, embeds: Array) -> Array:
    """Labels of all tasks, `[GOLDEN_IMAGES, labels]`: one softmax."""
    return _softmax(np.concatenate([_scores(merged, task, embeds) for task in merged.task_names], axis=1))


def _scores(merged: MergedModel, task: str, embeds: Array) -> Array:
    """`[GOLDEN_IMAGES, labels of the task]` in float64."""
    return np.asarray(merged.logit_scale * embeds[:GOLDEN_IMAGES].astype(np.float64) @ merged.head(task).T)


def _softmax(scores: Array) -> Array:
    return torch.from_numpy(scores).softmax(1).numpy()


def _by_image(tower: GatedTower, x: torch.Tensor, top_k: int, progress: Progress) -> ImageScopeOutputs:
    names = tower.merged.task_names
    posterior, confidence = (value.float().numpy() for value in tower.route(x))
    experts = {}
    for i, name in enumerate(names):
        progress("reference", i, len(names), name)
        experts[name] = tower.embed(x, name).numpy()
    mixture = tower.embed_mixture(x, names[:2], MIXTURE).numpy() if len(names) > 1 else None
    progress("reference", len(names), len(names))
    claimed = []
    for i in range(GOLDEN_IMAGES):
        weights, tasks = torch.from_numpy(posterior[i]).topk(top_k)
        shares = (weights / weights.sum()).tolist()
        claimed.append(tower.embed_mixture(x[i : i + 1], [names[t] for t in tasks], shares).numpy())
    return ImageScopeOutputs(posterior, confidence, experts, mixture, np.concatenate(claimed))


def _by_layer(tower: GatedTower, x: torch.Tensor, top_k: int, progress: Progress) -> dict[int, Routed]:
    count = len(tower.merged.tasks)
    chosen = sorted({1, min(2, count), top_k, count})
    outputs = {}
    for done, k in enumerate(chosen):
        progress("reference", done, len(chosen), f"top {k}")
        embeds, tasks, weights = tower.embed_layers(x, k)
        outputs[k] = Routed(embeds.numpy(), tasks.numpy(), weights.numpy())
    progress("reference", len(chosen), len(chosen))
    return outputs
