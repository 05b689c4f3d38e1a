"""Folding what a library stores into the internal parameters, where the two differ in storage and not in what they compute.

A naming gives each tensor its internal name, or one of these:
`blocks.{i}.scale_1`, `.scale_2`: LayerScale (arXiv 2103.17239) after `out` and `fc2`, folded into both;
`ln_last`: the last LayerNorm, `ln_post` or `ln_tokens` by the architecture;
`pooling.query`, `pooling.ln_q`, `pooling.q`, `pooling.k`: what attention pooling compares tokens with, folded into
`pooling.scores`. The query is constant, so that its products with the keys are linear in the tokens, and the keys' bias adds
the same to all, which a softmax takes away.
Positions that cover patches or the class token alone get rows of zeros; biases that a model does not have are zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.checkpoints.hugging_face_names import (
    hugging_face_clip_parameters,
    hugging_face_dinov2_parameters,
    hugging_face_vit_parameters,
)
from mingle_edge.checkpoints.open_clip_names import open_clip_parameters
from mingle_edge.checkpoints.stored_parameters import UNUSED, StoredParameter, combined
from mingle_edge.checkpoints.timm_names import timm_parameters
from mingle_edge.clip.architecture import VisionArchitecture

_SCALED = {"out": "scale_1", "fc2": "scale_2"}
_SCALES = re.compile(r"blocks\.\d+\.scale_[12]")
_COMPARED = (
    "pooling.query",
    "pooling.ln_q.weight",
    "pooling.ln_q.bias",
    "pooling.q.weight",
    "pooling.q.bias",
    "pooling.k.weight",
)


@dataclass(frozen=True)
class Naming:
    """How a library names the tensors of a vision tower."""

    parameters: Callable[[str, str], list[StoredParameter]]
    """From the name within the tower and the name in the file: what the tensor holds; none if unknown."""
    may_lack: tuple[str, ...] = ()
    """Linear layers of a block that some models have without a bias."""
    keeps_unused: bool = False
    """Whether models keep layers of an output that their own head does not read."""
    resizes_positions: bool = False
    """Whether positions are interpolated to the image's size."""


NAMINGS: dict[str, Naming] = {
    "open_clip": Naming(open_clip_parameters),
    "timm": Naming(timm_parameters, may_lack=("q", "k", "v")),
    "hugging_face": Naming(
        lambda name, key: hugging_face_clip_parameters(name.removeprefix("vision_model."), key), keeps_unused=True
    ),
    "hugging_face_vit": Naming(hugging_face_vit_parameters, may_lack=("q", "k", "v")),
    "hugging_face_dinov2": Naming(hugging_face_dinov2_parameters, may_lack=("q", "k", "v"), resizes_positions=True),
}


def fold(stored: Mapping[str, StoredParameter], naming: Naming, architecture: VisionArchitecture) -> dict[str, StoredParameter]:
    """Return the internal parameters that a file holds, from what its tensors hold each."""
    parameters = {name: parameter for name, parameter in stored.items() if not name.startswith(UNUSED)}
    last = "ln_post" if architecture.norm_pooled else "ln_tokens" if architecture.norm_tokens else f"{UNUSED}ln"
    for kind in ("weight", "bias"):
        if f"ln_last.{kind}" in parameters:
            parameters[f"{last}.{kind}"] = parameters.pop(f"ln_last.{kind}")
    _fold_scales(parameters)
    _fold_positions(parameters, naming, architecture)
    if architecture.pooling == "attention":
        _fold_query(parameters, architecture)
    _add_missing_biases(parameters, naming, architecture)
    expected = architecture.parameter_shapes()
    return {
        name: combined(name, _same, parameter) if parameter.name != name else parameter
        for name, parameter in parameters.items()
        if name in expected
        or not (name.startswith(UNUSED) or (naming.keeps_unused and name.startswith(("pooling.", "projection."))))
    }


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _fold_scales(parameters: dict[str, StoredParameter]) -> None:
    def scaled(value: Tensor, scale: Tensor) -> Tensor:
        if scale.shape != value.shape[:1]:
            raise ValueError("a scale for each output")
        return value * scale.reshape(-1, *[1] * (value.ndim - 1))

    for name in [name for name in parameters if _SCALES.fullmatch(name)]:
        block, _, scale = name.rpartition(".")
        layer = next(layer for layer, of_layer in _SCALED.items() if of_layer == scale)
        scales = parameters.pop(name)
        for target in (f"{block}.{layer}.weight", f"{block}.{layer}.bias"):
            if target in parameters:
                parameters[target] = combined(target, scaled, parameters[target], scales)


def _fold_positions(parameters: dict[str, StoredParameter], naming: Naming, architecture: VisionArchitecture) -> None:
    """Add zeros for the tokens that positions do not cover; where the library does so, interpolate those of patches."""
    if "positions" not in parameters:
        return
    patches, prefix = architecture.grid**2, architecture.prefix_tokens

    def covering(positions: Tensor) -> Tensor:
        if positions.ndim != 2:
            return positions
        if naming.resizes_positions:
            first, rest = positions[:1], positions[1:]
            positions = torch.cat([first, _resized(rest, architecture)])
        covered = len(positions) - patches
        if covered not in (0, int(architecture.class_token)) or covered == prefix:
            return positions  # all tokens, or of another model
        zeros = positions.new_zeros(prefix - covered, positions.shape[1])
        return torch.cat([positions[:covered], zeros, positions[covered:]])

    parameters["positions"] = combined("positions", covering, parameters["positions"])


def _resized(positions: Tensor, architecture: VisionArchitecture) -> Tensor:
    """Interpolate positions of patches `[n, width]` as DINOv2 does, which smooths a smaller grid where there are registers."""
    side = math.isqrt(len(positions))
    if side == architecture.grid or side * side != len(positions) or side == 0:
        return positions
    grid = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(
        grid, (architecture.grid,) * 2, mode="bicubic", align_corners=False, antialias=bool(architecture.registers)
    )
    return grid.permute(0, 2, 3, 1).flatten(0, 2)  # [grid grid, width]


def _fold_query(parameters: dict[str, StoredParameter], architecture: VisionArchitecture) -> None:
    there = {name: parameters.pop(name) for name in _COMPARED if name in parameters}
    parameters.pop("pooling.k.bias", None)
    if not {"pooling.query", "pooling.k.weight"} <= there.keys():
        return
    heads, eps = architecture.pool_heads, architecture.layer_norm_eps

    def scores(*tensors: Tensor) -> Tensor:
        values = {name: tensor.double() for name, tensor in zip(there, tensors, strict=True)}
        query = values["pooling.query"]
        query = query[0] if query.ndim == 2 else query  # the first is the one whose output is used
        if "pooling.ln_q.weight" in values:
            query = F.layer_norm(query, query.shape, values["pooling.ln_q.weight"], values.get("pooling.ln_q.bias"), eps)
        if "pooling.q.weight" in values:
            query = F.linear(query, values["pooling.q.weight"], values.get("pooling.q.bias"))
        keys = values["pooling.k.weight"]  # [pool_width, width]
        by_head = query.reshape(heads, 1, -1) @ keys.reshape(heads, -1, keys.shape[1])  # [heads, 1, width]
        return by_head.squeeze(1) / math.sqrt(len(query) / heads)

    parameters["pooling.scores"] = combined("pooling.scores", scores, *there.values())


def _add_missing_biases(parameters: dict[str, StoredParameter], naming: Naming, architecture: VisionArchitecture) -> None:
    """Add zeros for the biases that no block has."""
    for layer in naming.may_lack:
        names = [f"blocks.{i}.{layer}.bias" for i in range(architecture.layers)]
        if not any(name in parameters for name in names):
            parameters |= {name: StoredParameter(name, (), lambda: torch.zeros(architecture.width)) for name in names}
