"""What a merged model's linear layers read while it runs: for choosing how to quantise them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.gated_tower import GatedTower, Observer
from mingle_edge.images import load_images

BATCH = 16  # images

Images = Mapping[str, Sequence[Path]]
"""task -> calibration images"""


def input_peaks(tower: GatedTower, images: Images) -> dict[str, NDArray[np.float32]]:
    """Layer -> `[d_in]`: the largest magnitude of each input channel, with and without experts."""
    peaks: dict[str, Tensor] = {}

    def observe(layer: str, x: Tensor) -> None:
        largest = x.abs().amax((0, 1))
        peaks[layer] = torch.maximum(peaks[layer], largest) if layer in peaks else largest

    _run(tower, images, observe)
    return {layer: peak.cpu().numpy() for layer, peak in peaks.items()}


def integer_noise(
    tower: GatedTower, images: Images, scales: Mapping[str, NDArray[np.float32]], largest_code: int
) -> dict[str, float]:
    """Layer -> what integer activations and weights change of its output, relative to the output, in the mean over images.

    scales: layer -> `[d_in]`, what its inputs are divided and its weights multiplied by first; 1 where absent.
    largest_code: magnitude of a weight's code.
    """
    found: dict[str, list[Tensor]] = {}

    def observe(layer: str, x: Tensor) -> None:
        weight = tower.backbone[f"{layer}.weight"]
        factors = torch.from_numpy(scales[layer]).to(weight) if layer in scales else torch.ones_like(weight[0])
        exact = x @ weight.T  # [B, N, d_out]
        rounded = _rounded_activations(x / factors) @ _rounded_weights(weight * factors, largest_code).T
        noise = (rounded - exact).square().sum((1, 2)) / exact.square().sum((1, 2)).clamp_min(torch.finfo(x.dtype).tiny)
        found.setdefault(layer, []).append(noise.cpu())

    _run(tower, images, observe)
    return {layer: float(torch.cat(parts).mean().sqrt()) for layer, parts in found.items()}


@torch.inference_mode()
def own_embeddings(tower: GatedTower, images: Images) -> dict[str, NDArray[np.float32]]:
    """Task -> embeddings `[n, dim]` of its images under its own expert alone."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    names = tower.merged.task_names
    for task, batch in _batches(tower, images):
        if tower.merged.scope == "layer":
            mask = torch.tensor([float(name == task) for name in names], device=tower.device)
            embeds = tower.embed_layers(batch, 1, mask)[0]
        else:
            embeds = tower.embed(batch, task)
        found.setdefault(task, []).append(embeds.cpu().numpy())
    return {task: np.concatenate(parts) for task, parts in found.items()}


def _run(tower: GatedTower, images: Images, observe: Observer) -> None:
    """The tower on every image, with its own task's expert and with none, and `observe` called with what layers read."""
    layer_scope = tower.merged.scope == "layer"
    with tower.observed(observe):
        for task, batch in _batches(tower, images):
            if layer_scope:
                tower.embed_layers(batch, top_k=1)
            else:
                tower.embed(batch, task)
            tower.embed(batch)


def _batches(tower: GatedTower, images: Images) -> Iterator[tuple[str, Tensor]]:
    for task, paths in images.items():
        for start in range(0, len(paths), BATCH):
            yield task, load_images(paths[start : start + BATCH], tower.architecture)


def _rounded_weights(weight: Tensor, largest_code: int) -> Tensor:
    """`[d_out, d_in]` as codes up to `largest_code` with one scale per output channel can say it."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / largest_code
    return (weight / scale).round() * scale


def _rounded_activations(x: Tensor) -> Tensor:
    """`[B, N, d]` as uint8 with one range per image can say it (operator DynamicQuantizeLinear)."""
    low, high = x.amin((1, 2), keepdim=True).clamp_max(0), x.amax((1, 2), keepdim=True).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(torch.finfo(x.dtype).tiny)
    zero = (-low / scale).round()
    return ((x / scale + zero).round().clamp(0, 255) - zero) * scale
