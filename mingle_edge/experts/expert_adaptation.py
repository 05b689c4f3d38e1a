"""Adapting a truncated expert to its fine-tuned model on a task's calibration images, without labels.

Test-time adaptation as in MINGLE (arXiv 2505.11883, 3.2), of the expert in place of its gate: the directions that stay learn
to do what truncation took away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import permutation, shuffled_batches, task_generator
from mingle_edge.data.settings import Settings
from mingle_edge.data.variations import mild_variations
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.experts.low_rank import svd_of_product_sum

SEEDS_PER_STEP = 16
"""Each with one variation, drawn anew for every step."""
LEFT_OUT = 5
"""One seed in so many is left out of the adaptation, to see whether it helps and where it stops to."""
LEAST_SEEDS = 10
"""Of fewer, none can be left out that tell anything."""
VARIATIONS_LEFT_OUT = 4
LOOKS = 6
"""How often during an adaptation the left-out seeds are looked at."""
EXACT = 1e-6
"""Loss on the left-out seeds under which there is nothing to adapt."""
CHUNK_BYTES = 1 << 30
ACTIVATIONS = 20
"""Tensors `[tokens, width]` that a block keeps for the backward pass, about."""


@dataclass(frozen=True)
class Adaptation:
    """What came of an adaptation. Losses are those of `adapt_expert`."""

    expert: CompleteExpert
    losses: list[float]
    """of each step, before it"""
    truncated_loss: float | None
    """of the expert that it began with, on the left-out seeds; None where none were left out"""
    adapted_loss: float | None
    """of `expert`, likewise"""
    step: int
    """after which `expert` was taken; 0: it is the one that the adaptation began with"""
    warning: str | None = None
    """what a user should know, in a sentence"""

    def record(self) -> dict[str, Any]:
        """Return what a merged model records of it."""
        if self.truncated_loss is None:
            return {"losses": []}
        left_out = {"truncated_loss": self.truncated_loss, "adapted_loss": self.adapted_loss, "adapted_steps": self.step}
        return {"losses": self.losses} | left_out


def adapt_expert(
    expert: CompleteExpert, task: FinetunedTask, pretrained: PretrainedModel, settings: Settings, progress: Progress = silent
) -> Adaptation:
    """Adapt all parameters of an expert by Adam, and return it as it was where that was best on seeds left out of it.

    With `expert_steps` of 0 nothing is adapted.

    An image's loss is one minus the cosine of its embedding with the fine-tuned model's, plus the divergence of its softmax
    under the task's head from the fine-tuned model's. The expert depends on no other task.
    """
    count, steps = len(task.calibration_images), settings.expert_steps
    if steps == 0:
        return Adaptation(expert, [], None, None, 0)
    if count < LEAST_SEEDS:
        return Adaptation(
            *(expert, [], None, None, 0),
            f"task {task.name!r} has {count} seeds, and its expert was not adapted, which takes {LEAST_SEEDS}; give it more",
        )
    generator = task_generator(settings.seed, task.name, "expert")
    order = permutation(count, generator)
    left_out, used = sorted(order[: count // LEFT_OUT]), order[count // LEFT_OUT :]
    student = _Student(expert, task, pretrained)
    images = task.calibration_images.load(left_out, pretrained.architecture)
    test = student.taught(mild_variations(images, VARIATIONS_LEFT_OUT, pretrained.architecture, generator).flatten(0, 1))
    truncated = student.mean_loss(test)
    if not truncated > EXACT:  # also where it is no number, which nothing can be learned from
        return Adaptation(expert, [], truncated, truncated, 0)
    looks = {math.ceil(steps * look / LOOKS) for look in range(1, LOOKS + 1)}
    kept, best, at, losses = expert, truncated, 0, list[float]()
    for step, loss in enumerate(student.learn(_batches(task, used, pretrained, steps, generator), settings), start=1):
        losses.append(loss)
        if not math.isfinite(loss):
            return Adaptation(
                *(kept, losses[:-1], truncated, best, at),
                f"task {task.name!r}: the loss of its expert's adaptation was not finite in step {step}, and "
                f"{'the truncated expert' if at == 0 else f'that of step {at}'} was kept; lower expert_learning_rate",
            )
        progress("adapt", step, steps, f"loss {loss:.4f}")
        if step in looks and (now := student.mean_loss(test)) < best:
            kept, best, at = student.expert(), now, step
    return Adaptation(kept, losses, truncated, best, at)


def images_at_once(architecture: VisionArchitecture) -> int:
    """Return how many images' activations fit into `CHUNK_BYTES` for a backward pass."""
    tokens = architecture.grid**2 + architecture.prefix_tokens
    return max(1, CHUNK_BYTES // (4 * tokens * architecture.width * architecture.layers * ACTIVATIONS))


Taught = Sequence[tuple[Tensor, Tensor]]
"""Images `[n, 3, H, W]` and the fine-tuned model's embeddings of them `[n, output_dim]`, in parts that fit in memory."""


class _Student:
    """The tower with an expert that learns, beside the fine-tuned model."""

    def __init__(self, expert: CompleteExpert, task: FinetunedTask, pretrained: PretrainedModel) -> None:
        self._task, self._pretrained = task, pretrained
        factors = {layer: (_leaf(B), _leaf(A)) for layer, (B, A) in expert.factors.items()}
        self._expert = CompleteExpert(factors, {name: _leaf(value) for name, value in expert.unfactored.items()})

    @torch.no_grad()
    def taught(self, images: Tensor) -> Taught:
        """Return images with what the fine-tuned model makes of them."""
        at_once = images_at_once(self._pretrained.architecture)
        parts = torch.split(images.to(self._pretrained.device), at_once)
        return [(part, self._pretrained.embed(part, self._task.finetuned)) for part in parts]

    @torch.no_grad()
    def mean_loss(self, taught: Taught) -> float:
        """Return the mean loss of images."""
        return sum(float(self._loss(*part).sum()) for part in taught) / sum(len(images) for images, _ in taught)

    def learn(self, batches: Iterator[Tensor], settings: Settings) -> Iterator[float]:
        """Take a step per batch `[n, 3, H, W]`, the rate falling to 0, and yield the loss that it had before."""
        rate, steps = settings.expert_learning_rate, settings.expert_steps
        parameters = [*(side for pair in self._expert.factors.values() for side in pair), *self._expert.unfactored.values()]
        optimizer = torch.optim.Adam(parameters, lr=rate)
        for step, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            total = 0.0
            for part in self.taught(batch):
                loss = self._loss(*part).sum() / len(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            if math.isfinite(total):
                optimizer.step()
            yield total

    @torch.no_grad()
    def expert(self) -> CompleteExpert:
        """Return a copy of the expert as it is now, its directions orthogonal and the strongest first."""
        factors = {}
        for layer, (B, A) in self._expert.factors.items():
            U, singular, V = svd_of_product_sum([(B, A)])
            factors[layer] = (U.to(B.dtype), (singular[:, None] * V.T).to(A.dtype))
        return CompleteExpert(factors, {name: value.detach().clone() for name, value in self._expert.unfactored.items()})

    def _loss(self, images: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of each image `[n]`."""
        alone, head = [(1.0, self._expert)], self._task.head
        parameters = expert_parameters(self._pretrained.backbone, alone)
        embeds = self._pretrained.embed(images, parameters, expert_linear(parameters, alone))
        wanted, given = (F.log_softmax(head.logits(of), dim=1) for of in (teacher, embeds))
        divergence = (wanted.exp() * (wanted - given)).sum(1)
        return 1 - F.cosine_similarity(embeds, teacher, dim=1) + divergence


def _batches(
    task: FinetunedTask, used: Sequence[int], pretrained: PretrainedModel, steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield seeds, each followed by a variation of it, `[2 seeds, 3, H, W]`."""
    for numbers in shuffled_batches(len(used), SEEDS_PER_STEP, steps, generator):
        seeds = task.calibration_images.load([used[n] for n in numbers], pretrained.architecture)
        yield mild_variations(seeds, 1, pretrained.architecture, generator).flatten(0, 1)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()
