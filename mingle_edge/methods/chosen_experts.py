"""The layer scope's sparse routes for evaluating many images: of T experts only the chosen ones are multiplied."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mingle_edge.gating import GatedExperts, choose, gate_values
from mingle_edge.vision_tower import Linear, Parameters, plain_linear


def chosen_linear(parameters: Parameters, layers: Mapping[str, GatedExperts], top_k: int) -> Linear:
    """Linear layers equal to `GatedLinear(parameters, layers, top_k)` to float rounding, with gates per image."""
    plain = plain_linear(parameters)

    def linear(layer: str, x: Tensor) -> Tensor:
        y = plain(layer, x)
        gated = layers.get(layer)
        if gated is None:
            return y
        experts = gated.experts
        tasks, weights = choose(gate_values(x, gated.gate_weight, gated.gate_bias), experts.norms, top_k)  # [B, k]
        A = experts.A[tasks].flatten(1, 2)  # [B, k r, d_in]
        B = experts.B[tasks].transpose(2, 3).flatten(1, 2)  # [B, k r, d_out]
        h = (x @ A.mT) * weights.repeat_interleave(experts.A.shape[1], dim=1)[:, None, :]  # [B, N, k r]
        return torch.baddbmm(y, h, B)

    return linear
