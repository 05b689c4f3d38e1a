"""Where each parameter of the internal naming lies in the tensors of open_clip and Hugging Face checkpoints."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mingle_edge.checkpoints.stored_tensors import StoredTensors

_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OPEN_CLIP_IN_BLOCK = {
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "attn.out_proj.weight": "out.weight",
    "attn.out_proj.bias": "out.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
    "mlp.c_fc.weight": "fc1.weight",
    "mlp.c_fc.bias": "fc1.bias",
    "mlp.c_proj.weight": "fc2.weight",
    "mlp.c_proj.bias": "fc2.bias",
}
_OPEN_CLIP_OUTSIDE = {
    "class_embedding": "class_token",
    "positional_embedding": "positions",
    "ln_pre.weight": "ln_pre.weight",
    "ln_pre.bias": "ln_pre.bias",
    "ln_post.weight": "ln_post.weight",
    "ln_post.bias": "ln_post.bias",
}
_HUGGING_FACE_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_HUGGING_FACE_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "out",
    "layer_norm2": "ln_2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_HUGGING_FACE_OUTSIDE = {
    "embeddings.class_embedding": "class_token",
    "embeddings.position_embedding.weight": "positions",
    "pre_layrnorm.weight": "ln_pre.weight",  # transformers' spelling
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
    "visual_projection.weight": "projection.weight",
}
_TEXT_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TEXT_OUTSIDE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}


@dataclass(frozen=True)
class StoredParameter:
    """An internal parameter and where its values are."""

    name: str  # internal
    key: str  # in the file
    third: int | None = None  # of the rows, where q, k and v are stored as one tensor
    layout: Literal["same", "transposed", "flattened"] = "same"  # flattened: a convolution's weight [width, 3, p, p]

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the internal parameter, from that of the stored tensor; `stored` itself where the layout cannot
        apply.
        """
        if self.third is not None and stored and stored[0] % 3 == 0:
            return (stored[0] // 3, *stored[1:])
        if self.layout == "transposed" and len(stored) == 2:
            return (stored[1], stored[0])
        if self.layout == "flattened" and len(stored) == 4 and stored[1] == 3:
            return (stored[0], math.prod(stored[1:]))
        return stored

    def read(self, tensors: StoredTensors) -> Tensor:
        """Return the internal parameter as float32, contiguous, in memory of its own."""
        rows = None
        if self.third is not None:
            step = tensors.shape(self.key)[0] // 3
            rows = slice(self.third * step, (self.third + 1) * step)
        tensor = tensors.read(self.key, rows)
        if self.layout == "transposed":
            tensor = tensor.T
        elif self.layout == "flattened":
            tensor = tensor.flatten(1)  # [width, 3 p p]
        # The copy keeps no map of the file alive, and contiguous_format undoes the strides of a transpose.
        return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def open_clip_parameters(name: str, key: str) -> list[StoredParameter]:
    """Return the internal parameters in the tensor that open_clip calls `name` and the file `key`; none if it is unknown."""
    if match := _OPEN_CLIP_BLOCK.fullmatch(name):
        block, rest = f"blocks.{match[1]}", match[2]
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = rest.rsplit("_", 1)[1]
            return [StoredParameter(f"{block}.{part}.{kind}", key, third=i) for i, part in enumerate("qkv")]
        return [StoredParameter(f"{block}.{_OPEN_CLIP_IN_BLOCK[rest]}", key)] if rest in _OPEN_CLIP_IN_BLOCK else []
    if name == "conv1.weight":
        return [StoredParameter("patch_embedding.weight", key, layout="flattened")]
    if name == "proj":
        return [StoredParameter("projection.weight", key, layout="transposed")]
    return [StoredParameter(_OPEN_CLIP_OUTSIDE[name], key)] if name in _OPEN_CLIP_OUTSIDE else []


def hugging_face_parameters(name: str, key: str) -> list[StoredParameter]:
    """Return the internal parameter in the tensor `name` (no `vision_model.`), `key` in the file; none if it is unknown."""
    if match := _HUGGING_FACE_BLOCK.fullmatch(name):
        block, layer, kind = match.groups()
        return (
            [StoredParameter(f"blocks.{block}.{_HUGGING_FACE_IN_BLOCK[layer]}.{kind}", key)]
            if layer in _HUGGING_FACE_IN_BLOCK
            else []
        )
    if name == "embeddings.patch_embedding.weight":
        return [StoredParameter("patch_embedding.weight", key, layout="flattened")]
    return [StoredParameter(_HUGGING_FACE_OUTSIDE[name], key)] if name in _HUGGING_FACE_OUTSIDE else []


def hugging_face_text_keys(layers: int) -> dict[str, tuple[str, ...]]:
    """Return, for each parameter of open_clip's text tower, the Hugging Face keys whose rows, one after the other, make it up.

    `text_projection` is stored transposed.
    """
    keys: dict[str, tuple[str, ...]] = {name: (key,) for name, key in _TEXT_OUTSIDE.items()}
    for i in range(layers):
        block, source = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            keys[f"{block}.attn.in_proj_{kind}"] = tuple(f"{source}.self_attn.{part}_proj.{kind}" for part in "qkv")
            keys |= {f"{block}.{ours}.{kind}": (f"{source}.{theirs}.{kind}",) for theirs, ours in _TEXT_IN_BLOCK.items()}
    return keys
