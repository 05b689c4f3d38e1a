"""The layer scope's linear layers for evaluating many images: what `GatedLinear` computes, with less arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.gating import ExpertStack, GatedExperts, GatedLinear, Pooling, choose, gate_values
from mingle_edge.vision_tower import Linear, Parameters, plain_linear


def layer_linear(parameters: Parameters, layers: Mapping[str, GatedExperts], top_k: int | None, pooling: Pooling) -> Linear:
    """Linear layers equal to `GatedLinear(parameters, layers, top_k, pooling)` to float rounding.

    Gates pooled over a batch are one set of weights for all its images, so the experts are added to the layer's weight first;
    of per-image routes only the chosen experts are multiplied.
    """
    if pooling == "image" and top_k is None:
        return GatedLinear(parameters, layers)
    plain = plain_linear(parameters)

    def linear(layer: str, x: Tensor) -> Tensor:
        gated = layers.get(layer)
        if gated is None:
            return plain(layer, x)
        experts = gated.experts
        values = gate_values(x, gated.gate_weight, gated.gate_bias, pooling)  # [B, T]
        if pooling == "image":
            tasks, weights = choose(values, experts.norms, top_k)  # [B, k]
            return _sum_of_chosen(plain(layer, x), x, experts, tasks, weights)
        if top_k is not None:
            tasks, weights = choose(values, experts.norms, top_k)
            values = torch.zeros_like(values).scatter(1, tasks, weights)
        shares = values[0].repeat_interleave(experts.A.shape[1])  # [T r]
        weight = parameters[f"{layer}.weight"] + (experts.stacked_B * shares) @ experts.stacked_A
        return F.linear(x, weight, parameters.get(f"{layer}.bias"))

    return linear


def _sum_of_chosen(y: Tensor, x: Tensor, experts: ExpertStack, tasks: Tensor, weights: Tensor) -> Tensor:
    """`y + sum_k c_k B_k (A_k x)` with experts `[B, k]` and weights `[B, k]` of each image's own."""
    A = experts.A[tasks].flatten(1, 2)  # [B, k r, d_in]
    B = experts.B[tasks].transpose(2, 3).flatten(1, 2)  # [B, k r, d_out]
    h = (x @ A.mT) * weights.repeat_interleave(experts.A.shape[1], dim=1)[:, None, :]  # [B, N, k r]
    return torch.baddbmm(y, h, B)
