"""Gated linear layers: `y = W x + b + sum over the route of c_t B_t (A_t x)`, never materialising a merged weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mingle_edge.vision_tower import Linear, Parameters, plain_linear

Pooling = Literal["image", "batch"]


@dataclass(frozen=True)
class ExpertStack:
    """The experts of T tasks at one linear layer."""

    A: Tensor  # [T, r, d_in]
    B: Tensor  # [T, d_out, r]

    @cached_property
    def norms(self) -> Tensor:
        """`||B_t A_t||_F` of each task, `[T]`: what a gate value is multiplied by to rank contributions."""
        inner = (self.B.mT @ self.B) * (self.A @ self.A.mT)  # [T, r, r]; trace(B'B A A') summed elementwise
        return inner.sum((1, 2)).clamp_min(0).sqrt()

    @cached_property
    def stacked_A(self) -> Tensor:
        """All A below one another, `[T r, d_in]`."""
        return self.A.flatten(0, 1)

    @cached_property
    def stacked_B(self) -> Tensor:
        """All B side by side, `[d_out, T r]`."""
        return self.B.transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class GatedExperts:
    """The experts of one linear layer with their gates (paper, section 3.2)."""

    experts: ExpertStack
    gate_weight: Tensor  # [T, d_in]
    gate_bias: Tensor  # [T]


def gate_values(x: Tensor, weight: Tensor, bias: Tensor, pooling: Pooling = "image") -> Tensor:
    """Gate values `[B, T]` of inputs `[B, N, d_in]`: affine in the mean token, no softmax, any sign.

    `batch` pooling, the official evaluation, also averages over the images of the batch.
    """
    values = torch.nn.functional.linear(x.mean(1), weight, bias)
    return values if pooling == "image" else values.mean(0, keepdim=True).expand_as(values)


def choose(values: Tensor, norms: Tensor, top_k: int | None = None, task_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The route of each image: task numbers `[B, k]` and their weights `[B, k]`, largest contribution first.

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
    """`sum_t c_t B_t (A_t x)` for inputs `[B, N, d_in]` and coefficients `[B, T]`: `[B, N, d_out]`."""
    rank = experts.A.shape[1]
    h = x @ experts.stacked_A.T  # [B, N, T r]
    h = h * coefficients.repeat_interleave(rank, dim=1)[:, None, :]
    return h @ experts.stacked_B.T


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
        """The layer's output `[B, N, d_out]`."""
        y = self._plain(layer, x)
        gated = self.layers.get(layer)
        if gated is None:
            return y
        experts = gated.experts
        values = gate_values(x, gated.gate_weight, gated.gate_bias, self.pooling)
        if self.top_k is None and self.task_mask is None and self.routes is None:
            return y + expert_sum(x, experts, values)
        tasks, weights = choose(values, experts.norms, self.top_k, self.task_mask)
        if self.routes is not None:
            self.routes.append((tasks, weights))
        return y + expert_sum(x, experts, torch.zeros_like(values).scatter(1, tasks, weights))
