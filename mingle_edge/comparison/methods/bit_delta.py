"""BitDelta: of every matrix the signs of what fine-tuning changed, and one scale (arXiv 2402.10193).

Idea: fine-tuning adds little information, so each matrix of the task vector becomes `scale * sign`. The scale starts at the
mean magnitude, where the squared error of the matrix is least, and then learns with all the others so that the logits are the
fine-tuned model's: 200 steps of Adam on 4 images each, the squared error of the logits, the rate falling to 0 along a cosine
(FasterDecoding/BitDelta, `train.py`). No label is read; the images are the task's seeds.
Limitation: one magnitude for all entries of a matrix, so what was hardly changed is changed as much as what mattered.

The authors compress the linear layers inside the blocks of language models and keep the rest as fine-tuned. Here every linear
layer is compressed, the patch embedding and the projection too: kept in full, these would take as much as all signs of a
ViT-B/32. Biases, LayerNorms, class token and positions are kept in full, at 4 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.method import Workbench, once
from mingle_edge.comparison.methods.bit_packing import PackedCodes
from mingle_edge.comparison.methods.compressed_models import CompressedModels, changed_parameters, parameter_bytes
from mingle_edge.comparison.methods.entropy_minimization import seed_batches
from mingle_edge.experts.finetuned_task import FinetunedTask

SCALE_BYTES = 4


@dataclass(frozen=True)
class SignsAndScales:
    """What is stored of a task."""

    signs: Mapping[str, PackedCodes]  # of a weight's difference, 1 where it is not negative
    scales: Mapping[str, float]
    kept: Parameters  # everything that is no matrix, as fine-tuned

    @property
    def nbytes(self) -> int:
        """Return the bytes of signs, scales and what is kept."""
        signs = sum(packed.nbytes for packed in self.signs.values())
        return signs + SCALE_BYTES * len(self.scales) + parameter_bytes(self.kept)

    def tower(self, backbone: Parameters) -> Parameters:
        """Return the backbone with `scale * sign` added to each matrix."""
        signs = {name: 2.0 * packed.codes(backbone[name].device) - 1 for name, packed in self.signs.items()}
        return {**backbone, **self.kept} | {name: backbone[name] + self.scales[name] * sign for name, sign in signs.items()}


def compress(task: FinetunedTask, workbench: Workbench, *, steps: int, learning_rate: float, batch_size: int) -> SignsAndScales:
    """Compress a task's model; with 0 steps, or without seeds, scales stay where they start."""
    changed = changed_parameters([task], workbench.backbone)
    weights = {f"{layer}.weight" for layer in workbench.architecture.linear_layers()}
    differences = {name: task.finetuned[name] - workbench.backbone[name] for name in changed if name in weights}
    kept = {name: task.finetuned[name] for name in changed if name not in weights}
    key: Hashable = (task.name, workbench.seed, steps, learning_rate, batch_size, *task.calibration_images.paths)

    def scales() -> Mapping[str, float]:
        return distilled_scales(differences, kept, task, workbench, steps, learning_rate, batch_size)

    signs = {name: PackedCodes.of(difference >= 0, 1) for name, difference in differences.items()}
    return SignsAndScales(signs, once(workbench.kept.scales, key, scales), kept)


def distilled_scales(
    differences: Parameters,
    kept: Parameters,
    task: FinetunedTask,
    workbench: Workbench,
    steps: int,
    learning_rate: float,
    batch_size: int,
) -> Mapping[str, float]:
    """Return the scale of each matrix: its mean magnitude, then learned on the task's seeds."""
    signs = {name: torch.where(difference >= 0, 1.0, -1.0) for name, difference in differences.items()}
    scales = {name: difference.abs().mean().requires_grad_() for name, difference in differences.items()}
    if scales:
        optimizer = torch.optim.Adam(scales.values(), lr=learning_rate)
        for step, images in enumerate(seed_batches(workbench, task, batch_size, steps)):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            compressed = {name: workbench.backbone[name] + scales[name] * sign for name, sign in signs.items()}
            wanted, given = (
                task.head.logits(workbench.embed(images, tower))
                for tower in (task.finetuned, {**workbench.backbone, **kept, **compressed})
            )
            F.mse_loss(given, wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {name: scale.item() for name, scale in scales.items()}


bit_delta = partial(CompressedModels, compress)
