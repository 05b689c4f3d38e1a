"""Choosing how to quantize a backbone to int8 from a few unlabeled images: activation smoothing, then mixed precision.

What the images decide is made of them alone; accuracy is reported on others (`labeled_accuracy`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.core.progress import Progress
from mingle_edge.data.images import load_images
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export.check.parity import expert_inputs
from mingle_edge_export.graph.builder import Array
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.index import LARGEST_CODE
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import CPU, Session

LEAST_AGREEMENT = 0.995  # of labels with the reference; half a point, were the reference always right
MOST_IMAGES = 64  # a task
SHARES = (0.0, 1 / 12, 1 / 6, 1 / 3)  # of the layers that stay in fp32, tried in turn
BATCH = 16  # images

Images = Mapping[str, Sequence[Path]]
"""task -> calibration images"""


@dataclass(frozen=True)
class Calibration:
    """What was learned from calibration images."""

    images: Images
    embeds: Mapping[str, Array]
    """task -> embeddings `[n, dim]` of its images under its own expert, in PyTorch"""
    smoothing: Smoothing
    noise: Mapping[str, float]
    """layer -> relative change of its output by 8-bit arithmetic, after smoothing"""


def calibrate(tower: GatedTower, images: Images, progress: Progress) -> Calibration:
    """Run the merged model in PyTorch on up to 64 images of each task, evenly from all of them, as folders are sorted by class.

    images: task -> unlabeled images, such as those it was merged with.
    """
    chosen = {}
    for task, paths in images.items():
        picks = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MOST_IMAGES)).round().astype(int))
        chosen[task] = [paths[i] for i in picks]
    progress("calibrate", 0, 3, "ranges")
    smoothing = Smoothing.from_peaks(tower.architecture, tower.merged.backbone(), input_peaks(tower, chosen))
    progress("calibrate", 1, 3, "noise")
    noise = integer_noise(tower, chosen, smoothing.layers, LARGEST_CODE)
    progress("calibrate", 2, 3, "reference")
    embeds = own_embeddings(tower, chosen)
    progress("calibrate", 3, 3)
    return Calibration(chosen, embeds, smoothing, noise)


def choose_exact_layers(
    calibration: Calibration,
    merged: MergedModel,
    always: frozenset[str],
    trial: Callable[[frozenset[str]], AbstractContextManager[Bundle]],
) -> frozenset[str]:
    """Return the fewest layers to keep in fp32 that let calibration images keep their labels, or those that help most.

    Beside those that `always` stay, the noisiest layers are tried first, more of them each time. trial: opens a bundle in which
    given layers are in fp32.
    """
    order = sorted(calibration.noise, key=lambda layer: (-calibration.noise[layer], layer))
    best, kept = -1.0, always
    for share in SHARES:
        layers = always | frozenset(order[: round(share * len(order))])
        with trial(layers) as bundle:
            agreement = label_agreement(bundle, merged, calibration)
        if agreement > best:
            best, kept = agreement, layers
        if agreement >= LEAST_AGREEMENT:
            break
    return kept


def label_agreement(bundle: Bundle, merged: MergedModel, calibration: Calibration) -> float:
    """Return the share of calibration images that get PyTorch's label under their own task's expert."""
    index, same = bundle.index, []
    tower = Session(bundle.graph(index.tower), [CPU], one_by_one=index.one_by_one)
    for task in index.tasks:
        inputs, adapter = expert_inputs(bundle, task, tower)
        pixels = preprocess(calibration.images[task.name], index.preprocess)
        embeds = tower.run({"pixel_values": pixels, **inputs}, adapter)["image_embeds"]
        head = Head.of(merged.head(task.name))
        found, wanted = (head.logits(torch.from_numpy(e)).argmax(1) for e in (embeds, calibration.embeds[task.name]))
        same.append(found == wanted)
    return float(torch.cat(same).double().mean())


def input_peaks(tower: GatedTower, images: Images) -> dict[str, Array]:
    """Return the largest magnitude of each layer's input channels `[d_in]`, with and without experts."""
    peaks: dict[str, Tensor] = {}

    def observe(layer: str, x: Tensor) -> None:
        largest = x.abs().amax((0, 1))
        peaks[layer] = torch.maximum(peaks[layer], largest) if layer in peaks else largest

    _run(tower, images, observe)
    return {layer: peak.numpy() for layer, peak in peaks.items()}


def integer_noise(tower: GatedTower, images: Images, scales: Mapping[str, Array], largest_code: int) -> dict[str, float]:
    """Return what integer activations and weights change of each layer's output, relative to it, in the mean over images.

    scales: layer -> `[d_in]`, what its inputs are divided and its weights multiplied by first; 1 where absent.
    largest_code: magnitude of a weight's code.
    """
    noise: dict[str, list[Tensor]] = {}

    def observe(layer: str, x: Tensor) -> None:
        weight = tower.backbone[f"{layer}.weight"]
        factors = torch.from_numpy(scales[layer]).to(weight) if layer in scales else torch.ones_like(weight[0])
        exact = x @ weight.T  # [B, N, d_out]
        rounded = _rounded_activations(x / factors) @ _rounded_weights(weight * factors, largest_code).T
        ratio = (rounded - exact).square().sum((1, 2)) / exact.square().sum((1, 2)).clamp_min(torch.finfo(x.dtype).tiny)
        noise.setdefault(layer, []).append(ratio)

    _run(tower, images, observe)
    return {layer: float(torch.cat(parts).mean().sqrt()) for layer, parts in noise.items()}


@torch.inference_mode()
def own_embeddings(tower: GatedTower, images: Images) -> dict[str, Array]:
    """Return the embeddings `[n, dim]` of each task's images under its own expert alone."""
    own: dict[str, list[Tensor]] = {}
    for task, batch in _batches(tower, images):
        if tower.merged.scope == "layer":
            mask = torch.tensor([float(name == task) for name in tower.merged.task_names])
            own.setdefault(task, []).append(tower.embed_layers(batch, 1, mask)[0])
        else:
            own.setdefault(task, []).append(tower.embed(batch, task))
    return {task: torch.cat(parts).numpy() for task, parts in own.items()}


def _run(tower: GatedTower, images: Images, observe: Callable[[str, Tensor], None]) -> None:
    """Run the tower on every image, with experts and with none, and call `observe` with what layers read."""
    with tower.observed(observe):
        for task, batch in _batches(tower, images):
            if tower.merged.scope == "layer":
                tower.embed_layers(batch, top_k=1)
            else:
                tower.embed(batch, task)
            tower.embed(batch)


def _batches(tower: GatedTower, images: Images) -> Iterator[tuple[str, Tensor]]:
    for task, paths in images.items():
        for start in range(0, len(paths), BATCH):
            yield task, load_images(paths[start : start + BATCH], tower.architecture)


def _rounded_weights(weight: Tensor, largest_code: int) -> Tensor:
    """Round `[d_out, d_in]` to what codes up to `largest_code` with one scale per output channel can say."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / largest_code
    return (weight / scale).round() * scale


def _rounded_activations(x: Tensor) -> Tensor:
    """Round `[B, N, d]` to what uint8 with one range per image can say (operator DynamicQuantizeLinear)."""
    low, high = x.amin((1, 2), keepdim=True).clamp_max(0), x.amax((1, 2), keepdim=True).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(torch.finfo(x.dtype).tiny)
    zero = (-low / scale).round()
    return ((x / scale + zero).round().clamp(0, 255) - zero) * scale
