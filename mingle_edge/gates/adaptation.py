"""Test-time adaptation: the newest gates learn from the fine-tuned model on a few unlabeled images (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.gates.null_space import NullSpaceProjector


@dataclass
class NewGate:
    """The trainable gate of the newest expert at one layer, with the constraint it must keep."""

    weight: Tensor  # [1, d_in]
    bias: Tensor  # [1]
    constraint: NullSpaceProjector | None = None
    covers_bias: bool = False  # the constraint's basis has d_in + 1 columns, the last for the bias

    def vector(self) -> Tensor:
        """Return what the constraint speaks of: the weight, with the bias behind it if covered; `[1, d]`."""
        return self._vector(self.weight, self.bias)

    def gradient(self) -> Tensor:
        """Return the gradient of `vector()`."""
        if self.weight.grad is None or self.bias.grad is None:
            raise RuntimeError("no gradient has reached this gate; call backward on a loss that depends on it first")
        return self._vector(self.weight.grad, self.bias.grad)

    def _vector(self, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.cat([weight, bias[:, None]], dim=1) if self.covers_bias else weight

    def split(self, vector: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take a vector `[1, d]` apart: weight `[1, d_in]` and bias `[1]` (None where the constraint leaves the bias free)."""
        return (vector[:, :-1], vector[:, -1]) if self.covers_bias else (vector, None)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return cross-entropy to the teacher's softmax, both `[B, classes]` at `temperature`, averaged over images.

    Without the factor temperature^2 of knowledge distillation (arXiv 1503.02531), as the published code has it.
    """
    target = torch.softmax(teacher_logits / temperature, dim=1)
    return -(target * F.log_softmax(student_logits / temperature, dim=1)).sum(1).mean()


def adapt(
    student: Callable[[Tensor], Tensor],
    gates: Mapping[str, NewGate],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    learning_rate: float,
    temperature: float,
    projected: Literal["update", "gradient"],
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Adapt the gates in place by Adam, one step per batch of (images, teacher logits `[B, classes]`).

    `student` maps images to logits through the gates. `gradient` constrains what enters Adam, the published form, whose
    updates then leave the null space; `update` constrains what Adam changes, so a hard constraint holds exactly.
    Returns the loss before each step.
    """
    trained = [tensor for gate in gates.values() for tensor in (gate.weight, gate.bias)]
    for tensor in trained:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    losses = []
    for step, (images, teacher_logits) in enumerate(batches):
        optimizer.zero_grad()
        loss = distillation_loss(student(images), teacher_logits, temperature)
        torch.autograd.backward(loss)
        with torch.no_grad():
            _constrained_step(optimizer, gates, projected)
        losses.append(loss.item())
        on_step(step, losses[-1])
    for tensor in trained:
        tensor.requires_grad_(False)
    return losses


def _constrained_step(
    optimizer: torch.optim.Optimizer, gates: Mapping[str, NewGate], projected: Literal["update", "gradient"]
) -> None:
    constrained = [(gate, gate.constraint) for gate in gates.values() if gate.constraint is not None]
    if projected == "gradient":
        for gate, constraint in constrained:
            weight, bias = gate.split(constraint.project(gate.gradient()))
            gate.weight.grad = weight
            if bias is not None:
                gate.bias.grad = bias
        optimizer.step()
        return
    before = [gate.vector().clone() for gate, _ in constrained]
    optimizer.step()
    for (gate, constraint), old in zip(constrained, before, strict=True):
        weight, bias = gate.split(old + constraint.project(gate.vector() - old))
        gate.weight.copy_(weight)
        if bias is not None:
            gate.bias.copy_(bias)
