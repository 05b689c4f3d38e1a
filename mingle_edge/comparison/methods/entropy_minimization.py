"""Test-time adaptation by entropy minimization, what AdaMerging and WEMoE both learn their few parameters with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mingle_edge.comparison.method import Workbench
from mingle_edge.data.calibration_images import shuffled_batches, task_generator
from mingle_edge.experts.finetuned_task import FinetunedTask

SMALLEST_PROBABILITY = 1e-8  # added inside the logarithm, as in FusionBench


def prediction_entropy(logits: Tensor) -> Tensor:
    """Return Shannon entropy in nats of the softmax of `logits [B, classes]`, averaged over images (arXiv 2310.02575, section
    3.3).
    """
    probabilities = torch.softmax(logits, dim=1)
    return -(probabilities * torch.log(probabilities + SMALLEST_PROBABILITY)).sum(1).mean()


def minimize_entropy(
    logits: Callable[[Tensor], Tensor], trained: Sequence[Tensor], batches: Iterable[Tensor], learning_rate: float
) -> None:
    """Change the `trained` tensors in place by Adam, one step per batch of images `[B, 3, H, W]`.

    `logits` maps images to `[B, classes]` through the trained tensors. No label is read.
    """
    for tensor in trained:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    for images in batches:
        optimizer.zero_grad()
        torch.autograd.backward(prediction_entropy(logits(images)), inputs=list(trained))
        optimizer.step()
    for tensor in trained:
        tensor.requires_grad_(False)


def seed_batches(workbench: Workbench, task: FinetunedTask, size: int, steps: int) -> Iterator[Tensor]:
    """Yield `steps` batches of the task's seeds on the device, the same whatever was merged before; none without seeds."""
    if not len(task.calibration_images):
        return
    generator = task_generator(workbench.seed, task.name, "batches")
    for numbers in shuffled_batches(len(task.calibration_images), size, steps, generator):
        yield task.calibration_images.load(numbers, workbench.architecture).to(workbench.device)
