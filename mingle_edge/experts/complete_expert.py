"""Complete experts: everything that turns the backbone into one task's model, and the tower that runs with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.clip.vision_tower import Linear, Parameters, plain_linear


@dataclass(frozen=True)
class CompleteExpert:
    """What turns the backbone into one task's model."""

    factors: Mapping[str, tuple[Tensor, Tensor]]  # layer -> B [d_out, r], A [r, d_in]
    unfactored: Parameters  # biases, LayerNorms, class token and positions, as they are in that model

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.float32]],
        device: torch.device | str = "cpu",
    ) -> CompleteExpert:
        """Return an expert from the arrays of a merged model."""
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        layers = [name.removesuffix(".A") for name in tensors if name.endswith(".A")]
        return cls(
            factors={layer: (tensors[f"{layer}.B"], tensors[f"{layer}.A"]) for layer in layers},
            unfactored={name: tensor for name, tensor in tensors.items() if not name.endswith((".A", ".B"))},
        )

    @property
    def rank(self) -> int:
        """Return the number of directions of the layer that has most; 0 where no layer has any."""
        return max((len(A) for _, A in self.factors.values()), default=0)

    def first(self, rank: int) -> CompleteExpert:
        """Return the expert of the first directions of every layer. Nothing is copied."""
        return replace(self, factors={layer: (B[:, :rank], A[:rank]) for layer, (B, A) in self.factors.items()})

    def copy(self) -> CompleteExpert:
        """Return an expert that shares no memory with this one."""
        factors = {layer: (B.clone(), A.clone()) for layer, (B, A) in self.factors.items()}
        return CompleteExpert(factors, {name: value.clone() for name, value in self.unfactored.items()})


def expert_parameters(backbone: Parameters, experts: Sequence[tuple[float | Tensor, CompleteExpert]]) -> dict[str, Tensor]:
    """Return the backbone with what is not factored at `default + sum_t c_t (v_t - default)`; exactly v for one of weight 1."""
    parameters = dict(backbone)
    for name in {name for _, expert in experts for name in expert.unfactored}:
        if len(experts) == 1 and experts[0][0] == 1:
            parameters[name] = experts[0][1].unfactored[name]
        else:
            moves = [c * (expert.unfactored[name] - backbone[name]) for c, expert in experts if name in expert.unfactored]
            parameters[name] = backbone[name] + torch.stack(moves).sum(0)
    return parameters


def expert_linear(parameters: Parameters, experts: Sequence[tuple[float | Tensor, CompleteExpert]]) -> Linear:
    """Return linear layers with a fixed route: `W x + b + sum_t c_t B_t A_t x`."""
    plain = plain_linear(parameters)

    def linear(layer: str, x: Tensor) -> Tensor:
        y = plain(layer, x)
        for weight, expert in experts:
            if layer in expert.factors:
                B, A = expert.factors[layer]
                y = y + weight * (x @ A.T @ B.T)
        return y

    return linear
