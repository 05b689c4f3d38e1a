"""Seeds that have no part in an expert's adaptation, and what an expert keeps of its fine-tuned model on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.data.calibration_images import permutation
from mingle_edge.data.variations import mild_variations
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel

LEAST_SEEDS = 10
"""Of fewer, none can be left out that tell anything."""
SHARE = 5
"""One seed in so many is left out."""
MOST, MOST_JUDGED = 20, 256
"""At most so many are left out, and of so many the fine-tuned model's answers are asked."""
VARIATIONS = 4
"""Of each seed that is left out, beside itself."""
_AT_ONCE = 32  # images of a forward pass
_PAIRS_BYTES = 1 << 27


@dataclass(frozen=True)
class Kept:
    """What an expert keeps of its fine-tuned model, in the mean over images."""

    loss: float
    """`image_loss`"""
    points_lost: float
    """`points_lost`, two standard errors above the mean over seeds"""
    agreement: float
    """share of images that get the fine-tuned model's label"""


def image_loss(embeds: Tensor, teacher: Tensor, head: Head) -> Tensor:
    """Return of each image `[n]` how far its embedding `[n, dim]` and its answer are from the fine-tuned model's.

    One minus the cosine of the two embeddings, plus the divergence of the softmax under the task's head.
    """
    wanted, given = (F.log_softmax(head.logits(of), dim=1) for of in (teacher, embeds))
    return 1 - F.cosine_similarity(embeds, teacher, dim=1) + (wanted.exp() * (wanted - given)).sum(1)


def points_lost(seeds: Tensor, teacher: Tensor, logits: Tensor) -> Tensor:
    """Estimate the points of accuracy that an expert's errors on each of m images cost, as the fine-tuned model expects it.

    An expert's errors are its logits less the fine-tuned model's. Those on an image are added to the fine-tuned model's logits
    of every seed, class by class in the order in which the fine-tuned model prefers them for the image. Where the sum has
    another label, the difference of the two labels' probabilities is lost. So few images give many chances to lose, and a
    label that was hardly preferred costs hardly anything.

    Args:
        seeds: the fine-tuned model's logits of all seeds `[n, classes]`.
        teacher: the same of the images `[m, classes]`.
        logits: of the images with the expert in place of that model.
    """
    order = teacher.argsort(dim=1, descending=True)
    errors = (logits - teacher).gather(1, order)  # [m, classes]
    ranked, lost = seeds.sort(dim=1, descending=True).values, torch.zeros(len(teacher), dtype=torch.float64)
    for part in torch.split(ranked, max(1, _PAIRS_BYTES // (4 * errors.numel()))):
        labels = (part[:, None] + errors).argmax(2)  # [part, m], 0 where the label stays
        probabilities = part.softmax(1)
        lost += (probabilities[:, :1] - probabilities.gather(1, labels)).double().sum(0).cpu()
    return 100 * lost / len(seeds)


def upper_mean(values: Tensor) -> float:
    """Return the mean of `[n]` plus two standard errors: few images have likely missed what is rare and costs most."""
    error = values.std() / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean() + 2 * error)


class LeftOutSeeds:
    """Seeds that are left out, each with variations, beside what the fine-tuned model makes of them."""

    def __init__(
        self, task: FinetunedTask, pretrained: PretrainedModel, generator: torch.Generator, *, adapts: bool = True
    ) -> None:
        """Draw them; adapts: whether there is an adaptation that others are needed for."""
        count = len(task.calibration_images)
        order = permutation(count, generator)
        chosen = min(count // SHARE if adapts else count, MOST)
        self.others = order[chosen:]
        """numbers of the seeds that are not left out"""
        self._task, self._pretrained = task, pretrained
        load, architecture = task.calibration_images.load, pretrained.architecture
        seeds = load(sorted(order[:chosen]), architecture)
        varied = mild_variations(seeds, VARIATIONS, architecture, generator).flatten(0, 1).to(pretrained.device)
        self.images = torch.split(varied, _AT_ONCE)
        """parts `[n, 3, H, W]`"""
        with torch.no_grad():
            self._teacher = torch.cat([pretrained.embed(part, task.finetuned) for part in self.images])  # [m, dim]
            judged = sorted(order[:MOST_JUDGED])
            parts = [load(judged[i : i + _AT_ONCE], architecture) for i in range(0, len(judged), _AT_ONCE)]
            answers = [task.head.logits(pretrained.embed(part.to(pretrained.device), task.finetuned)) for part in parts]
            self._seeds = torch.cat(answers)  # [seeds, classes]

    def kept(self, expert: CompleteExpert) -> Kept:
        """Return what an expert keeps."""
        embeds, head = self._embed(expert), self._task.head
        wanted, given = head.logits(self._teacher), head.logits(embeds)
        loss = float(image_loss(embeds, self._teacher, head).mean())
        lost = points_lost(self._seeds, wanted, given).reshape(-1, 1 + VARIATIONS).mean(1)  # of each seed
        points = min(upper_mean(lost), 100.0)  # which no mean of points exceeds but by rounding
        return Kept(loss, points, float((wanted.argmax(1) == given.argmax(1)).double().mean()))

    def mean_loss(self, expert: CompleteExpert, ranks: Sequence[int]) -> float:
        """Return the mean loss over experts of so many first directions."""
        losses = (image_loss(self._embed(expert.first(rank)), self._teacher, self._task.head).mean() for rank in ranks)
        return fmean(map(float, losses))

    @torch.no_grad()
    def _embed(self, expert: CompleteExpert) -> Tensor:
        alone = [(1.0, expert)]
        parameters = expert_parameters(self._pretrained.backbone, alone)
        linear = expert_linear(parameters, alone)
        return torch.cat([self._pretrained.embed(part, parameters, linear) for part in self.images])
