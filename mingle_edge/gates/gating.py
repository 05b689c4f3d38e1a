"""Gated linear layers: `y = W x + b + sum over the route of c_t B_t (A_t x)`.

Experts stay factored: coefficients that differ from image to image would need a merged weight for each. Where they are the
same for a batch of enough tokens, the one merged weight is the cheaper form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mingle_edge.clip.vision_tower import Linear, Parameters, plain_linear
from mingle_edge.data.settings import Pooling


@dataclass(frozen=True)
class ExpertStack:
    """The experts of T tasks at one linear layer."""

    A: Tensor  # [T, r, d_in]
    B: Tensor  # [T, d_out, r]

    @cached_property
    def norms(self) -> Tensor:
        """Return `||B_t A_t||_F` of each task, `[T]`: what a gate value is multiplied by to rank contributions."""
        inner = (self.B.mT @ self.B) * (self.A @ self.A.mT)  # [T, r, r]; trace(B'B A A') summed elementwise
        return inner.sum((1, 2)).clamp_min(0).sqrt()

    @cached_property
    def stacked_A(self) -> Tensor:
        """Return all A below one another, `[T r, d_in]`."""
        return self.A.flatten(0, 1)

    @cached_property
    def stacked_B(self) -> Tensor:
        """Return all B side by side, `[d_out, T r]`."""
        return self.B.transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class GatedExperts:
    """The experts of one linear layer with their gates (paper, section 3.2)."""

    experts: ExpertStack
    gate_weight: Tensor  # [T, d_in]
    gate_bias: Tensor  # [T]

    def appended(self, new: GatedExperts) -> GatedExperts:
        """Return these experts and gates with the new ones behind them."""
        stack = ExpertStack(torch.cat([self.experts.A, new.experts.A]), torch.cat([self.experts.B, new.experts.B]))
        weight, bias = torch.cat([self.gate_weight, new.gate_weight]), torch.cat([self.gate_bias, new.gate_bias])
        return GatedExperts(stack, weight, bias)

    def alone(self, task: int) -> GatedExperts:
        """Return one task's expert with its gate."""
        one = slice(task, task + 1)
        return GatedExperts(ExpertStack(self.experts.A[one], self.experts.B[one]), self.gate_weight[one], self.gate_bias[one])


def gate_values(x: Tensor, weight: Tensor, bias: Tensor, pooling: Pooling = "image") -> Tensor:
    """Return gate values `[B, T]` of inputs `[B, N, d_in]`: affine in the mean token, no softmax, any sign.

    `batch` pooling, the official evaluation, also averages over the images of the batch.
    """
    values = torch.nn.functional.linear(x.mean(1), weight, bias)
    return values if pooling == "image" else values.mean(0, keepdim=True).expand_as(values)


def choose(values: Tensor, norms: Tensor, top_k: int | None = None, task_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the route of each image: task numbers `[B, k]` and their weights `[B, k]`, largest contribution first.

    Contribution is `|s_t| ||B_t A_t||_F`; weights are the gate values themselves. `task_mask [T]` zero excludes a task;
    where fewer than k remain, excluded ones fill up with weight 0.
    """
    contribution = values.abs() * norms
    if task_mask is not None:
        allowed = task_mask > 0
        contribution = torch.where(allowed, contribution, -1.0)
        values = torch.where(allowed, values, 0.0)
    tasks = contribution.topk(top_k or len(norms), dim=1).indices
    return tasks, values.gather(1, tasks)


def expert_sum(x: Tensor, experts: ExpertStack, coefficients: Tensor) -> Tensor:
    """Return `sum_t c_t B_t (A_t x)` for inputs `[B, N, d_in]` and coefficients `[B, T]`: `[B, N, d_out]`."""
    rank = experts.A.shape[1]
    h = x @ experts.stacked_A.T  # [B, N, T r]
    h = h * coefficients.repeat_interleave(rank, dim=1)[:, None, :]
    return h @ experts.stacked_B.T


class SharedCoefficients(torch.autograd.Function):
    """A linear layer with its experts under one set of coefficients for all tokens, by merging them into the weight.

    Only inputs and coefficients have gradients. Those of the coefficients come from the factors, `<B' dy, A x>` term by term,
    since the gradient of the merged weight would cost as much as the layer itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, coefficients: Tensor) -> Tensor:
        """Run the layer on `x [..., d_in]`, with stacked factors A `[R, d_in]`, B `[d_out, R]` and a coefficient for each of
        the R terms.
        """
        merged = torch.addmm(weight, B * coefficients, A)
        ctx.save_for_backward(x, merged, A, B)
        return F.linear(x, merged, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of inputs and coefficients."""
        x, merged, A, B = ctx.saved_tensors
        (dy,) = gradients
        dx = dy @ merged if ctx.needs_input_grad[0] else None
        terms = (dy @ B) * (x @ A.T) if ctx.needs_input_grad[5] else None  # [..., R]
        return dx, None, None, None, None, terms.flatten(0, -2).sum(0) if terms is not None else None


@dataclass
class GatedLinear:
    """A `Linear` for the tower with experts and gates in some layers; remembers the route of each when asked to."""

    parameters: Parameters
    layers: Mapping[str, GatedExperts]  # those that carry experts
    top_k: int | None = None  # None: all, the paper's dense form
    pooling: Pooling = "image"
    task_mask: Tensor | None = None  # [T]
    routes: list[tuple[Tensor, Tensor]] | None = None  # per gated layer in order of depth: tasks, weights [B, k]
    _plain: Linear = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._plain = plain_linear(self.parameters)

    def __call__(self, layer: str, x: Tensor) -> Tensor:
        """Return the layer's output `[B, N, d_out]`."""
        gated = self.layers.get(layer)
        if gated is None:
            return self._plain(layer, x)
        experts = gated.experts
        coefficients = gate_values(x, gated.gate_weight, gated.gate_bias, self.pooling)  # [B, T]
        if self.top_k is not None or self.task_mask is not None or self.routes is not None:
            tasks, weights = choose(coefficients, experts.norms, self.top_k, self.task_mask)
            if self.routes is not None:
                self.routes.append((tasks, weights))
            coefficients = torch.zeros_like(coefficients).scatter(1, tasks, weights)
        weight, bias = self.parameters[f"{layer}.weight"], self.parameters.get(f"{layer}.bias")
        d_out, d_in = weight.shape
        # Factored, a token costs R (d_in + d_out) more; merging costs R d_in d_out, once.
        if self.pooling == "batch" and x.shape[:-1].numel() * (d_in + d_out) > d_in * d_out:
            each_term = coefficients[0].repeat_interleave(experts.A.shape[1])  # [T r]
            y: Tensor = SharedCoefficients.apply(x, weight, bias, experts.stacked_A, experts.stacked_B, each_term)
            return y
        return self._plain(layer, x) + expert_sum(x, experts, coefficients)
