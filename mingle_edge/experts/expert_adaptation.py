"""Adapting a truncated expert to its fine-tuned model on a task's calibration images, without labels.

Test-time adaptation as in MINGLE (arXiv 2505.11883, 3.2), of the expert in place of its gate: the directions that stay learn
to do what truncation took away. Each step is taken at a rank and a precision drawn anew, so that the first r directions are
an expert of rank r for every r (nested dropout, arXiv 1402.0915), and rounding is a part of what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import Linear, Parameters, blocks, embed_patches, normalize, plain_linear, pool
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import shuffled_batches
from mingle_edge.data.settings import Settings
from mingle_edge.data.variations import mild_variations
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.experts.expert_form import FormPrecision
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.experts.left_out_seeds import LeftOutSeeds, image_loss
from mingle_edge.experts.rounding import rounded_expert

SEEDS_PER_STEP = 16
"""Each with one variation, drawn anew for every step."""
PRECISIONS: tuple[FormPrecision, ...] = ("int8", "int4")
"""Of steps."""
TOKENS = 20.0
"""What a step weighs the tokens with, beside embedding and answer."""
LOOKS = 5
"""How often during an adaptation the left-out seeds are looked at."""
CHUNK_BYTES = 1 << 30
ACTIVATIONS = 20
"""Tensors `[tokens, width]` that a block keeps for the backward pass, about."""


@dataclass(frozen=True)
class Adaptation:
    """What came of an adaptation."""

    expert: CompleteExpert
    step: int = 0
    """after which the expert was taken; 0: it is the one that the adaptation began with"""
    losses: Sequence[float] = ()
    """of each step, before it"""
    warning: str | None = None
    """what a user should know, in a sentence"""


def adapt_expert(
    expert: CompleteExpert,
    ranks: Sequence[int],
    task: FinetunedTask,
    pretrained: PretrainedModel,
    left_out: LeftOutSeeds,
    settings: Settings,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Adaptation:
    """Adapt all parameters of an expert by Adam, the rate falling to 0, on the seeds that are not left out.

    An image's loss is that of `image_loss`, plus `TOKENS` times the squared distance of its tokens after each block from the
    fine-tuned model's, as a share of their variance, in the mean over blocks.

    Args:
        expert: to begin with; it stays as it is.
        ranks: that steps are taken at; the best moment to stop is where their mean loss on the left-out seeds is least.
        task: whose seeds are learned from, towards its fine-tuned model.
        pretrained: the backbone.
        left_out: the seeds that the best moment is seen on.
        settings: steps and rate.
        generator: of seeds and variations, ranks and precisions.
        progress: is told of each step, with its loss.
    """
    student, steps = _Student(expert, task, pretrained, left_out), settings.expert_steps
    looks = {math.ceil(steps * look / LOOKS) for look in range(1, LOOKS + 1)}
    kept, best, at, losses = expert, left_out.mean_loss(expert, ranks), 0, list[float]()
    for step, loss in enumerate(
        student.learn(_batches(task, left_out, pretrained, steps, generator), ranks, settings, generator)
    ):
        if not math.isfinite(loss):
            return Adaptation(
                *(kept, at, losses),
                f"task {task.name!r}: the loss of its expert's adaptation was not finite in step {step + 1}, and "
                f"{'the truncated expert' if at == 0 else f'that of step {at}'} was kept; lower expert_learning_rate",
            )
        losses.append(loss)
        progress("adapt", step + 1, steps, f"loss {loss:.4f}")
        if step + 1 in looks and (now := left_out.mean_loss(student.expert(), ranks)) < best:
            kept, best, at = student.expert(), now, step + 1
    return Adaptation(kept, at, losses)


def images_at_once(architecture: VisionArchitecture) -> int:
    """Return how many images' activations fit into `CHUNK_BYTES` for a backward pass."""
    tokens = architecture.grid**2 + architecture.prefix_tokens
    return max(1, CHUNK_BYTES // (4 * tokens * architecture.width * architecture.layers * ACTIVATIONS))


class _Student:
    """The tower with an expert that learns, beside the fine-tuned model."""

    def __init__(
        self, expert: CompleteExpert, task: FinetunedTask, pretrained: PretrainedModel, left_out: LeftOutSeeds
    ) -> None:
        self._task, self._pretrained = task, pretrained
        factors = {layer: (_leaf(B), _leaf(A)) for layer, (B, A) in expert.factors.items()}
        self._expert = CompleteExpert(factors, {name: _leaf(value) for name, value in expert.unfactored.items()})
        with torch.no_grad():
            seen = self._through(left_out.images[0], task.finetuned, plain_linear(task.finetuned))
        self._variances = [tokens.var(dim=(0, 1), correction=0).mean() for tokens in seen[:-1]]

    def learn(
        self, batches: Iterator[Tensor], ranks: Sequence[int], settings: Settings, generator: torch.Generator
    ) -> Iterator[float]:
        """Take a step per batch `[n, 3, H, W]` and yield the loss that it had before."""
        rate, steps = settings.expert_learning_rate, settings.expert_steps
        parameters = [*(side for pair in self._expert.factors.values() for side in pair), *self._expert.unfactored.values()]
        optimizer = torch.optim.Adam(parameters, lr=rate)
        at_once = images_at_once(self._pretrained.architecture)
        forms = [(rank, precision) for rank in ranks for precision in PRECISIONS]
        for step, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            rank, precision = forms[int(torch.randint(len(forms), (), generator=generator))]
            total = 0.0
            for images in torch.split(batch.to(self._pretrained.device), at_once):
                loss = self.loss(images, rank, precision).sum() / len(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            if math.isfinite(total):
                optimizer.step()
            yield total

    def loss(self, images: Tensor, rank: int, precision: FormPrecision) -> Tensor:
        """Return the loss of each image `[n]` in one form of the expert."""
        finetuned = self._task.finetuned
        with torch.no_grad():
            *wanted, teacher = self._through(images, finetuned, plain_linear(finetuned))
        alone = [(1.0, rounded_expert(self._expert.first(rank), self._pretrained.backbone, precision))]
        parameters = expert_parameters(self._pretrained.backbone, alone)
        *tokens, embeds = self._through(images, parameters, expert_linear(parameters, alone))
        triples = zip(tokens, wanted, self._variances, strict=True)
        shares = [(ours - theirs).square().mean((1, 2)) / variance.clamp(min=1e-12) for ours, theirs, variance in triples]
        return image_loss(embeds, teacher, self._task.head) + TOKENS * torch.stack(shares).mean(0)

    @torch.no_grad()
    def expert(self) -> CompleteExpert:
        """Return a copy of the expert as it is now."""
        return self._expert.copy()

    def _through(self, images: Tensor, parameters: Parameters, linear: Linear) -> list[Tensor]:
        """Return the tokens after each block `[n, N, width]`, and last the embeddings `[n, dim]`."""
        architecture = self._pretrained.architecture
        tokens = list(blocks(embed_patches(images, parameters, architecture, linear), parameters, architecture, linear))
        return [*tokens, normalize(pool(tokens[-1], parameters, architecture, linear), architecture)]


def _batches(
    task: FinetunedTask, left_out: LeftOutSeeds, pretrained: PretrainedModel, steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield seeds, each followed by a variation of it, `[2 seeds, 3, H, W]`."""
    used = left_out.others
    for numbers in shuffled_batches(len(used), SEEDS_PER_STEP, steps, generator):
        seeds = task.calibration_images.load([used[n] for n in numbers], pretrained.architecture)
        yield mild_variations(seeds, 1, pretrained.architecture, generator).flatten(0, 1)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()
