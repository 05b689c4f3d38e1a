"""The names of Hugging Face's vision transformers, prefixes aside: of CLIP and SigLIP, of ViT and DeiT, and of DINOv2.

From transformers 5 on, models of the latter two have other names in memory, and in whatever else saves them, than in the files
that transformers itself writes. Both are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mingle_edge.checkpoints.stored_parameters import UNUSED, StoredParameter, flattened, one_token, thirds, tokens

_CLIP_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_CLIP_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "out",
    "layer_norm2": "ln_2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_CLIP_LAYERS = {
    "pre_layrnorm": "ln_pre",  # transformers' spelling
    "post_layernorm": "ln_last",
    "head.attention.out_proj": "pooling.out",
    "head.layernorm": "pooling.ln",
    "head.mlp.fc1": "pooling.fc1",
    "head.mlp.fc2": "pooling.fc2",
    "visual_projection": "projection",
}
_CLIP_TENSORS = {
    "embeddings.class_embedding": "class_token",
    "embeddings.position_embedding.weight": "positions",
    "embeddings.position_ids": f"{UNUSED}position_ids",
    "head.probe": "pooling.query",
}
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias|lambda1)")
_IN_BLOCK = {
    "attention.attention.query": "q",
    "attention.attention.key": "k",
    "attention.attention.value": "v",
    "attention.output.dense": "out",
    **{f"attention.{part}_proj": part for part in "qkv"},
    "attention.o_proj": "out",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_VIT_IN_BLOCK = _IN_BLOCK | {
    "layernorm_before": "ln_1",
    "layernorm_after": "ln_2",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
}
_DINOV2_IN_BLOCK = _IN_BLOCK | {"norm1": "ln_1", "norm2": "ln_2"}
_DINOV2_SCALES = {"layer_scale1": "scale_1", "layer_scale2": "scale_2"}
_TOKENS = {
    "embeddings.distillation_token": "registers",
    "embeddings.register_tokens": "registers",
    "embeddings.position_embeddings": "positions",
    "embeddings.mask_token": f"{UNUSED}mask_token",  # of training with masked patches
}


def hugging_face_clip_parameters(name: str, key: str) -> list[StoredParameter]:
    """Return what the tensor `name` (no `vision_model.`), `key` in the file, holds by the names of `folding`; none: unknown."""
    layer, _, kind = name.rpartition(".")
    if match := _CLIP_BLOCK.fullmatch(name):
        block, layer, kind = match.groups()
        return [StoredParameter.of(f"blocks.{block}.{_CLIP_IN_BLOCK[layer]}.{kind}", key)] if layer in _CLIP_IN_BLOCK else []
    if name in ("embeddings.patch_embedding.weight", "embeddings.patch_embedding.bias"):
        return [StoredParameter.of(f"patch_embedding.{kind}", key, flattened)]
    if name in ("head.attention.in_proj_weight", "head.attention.in_proj_bias"):
        return thirds("pooling", name.rsplit("_", 1)[1], key)
    if layer in _CLIP_LAYERS and kind in ("weight", "bias"):
        return [StoredParameter.of(f"{_CLIP_LAYERS[layer]}.{kind}", key)]
    return [StoredParameter.of(_CLIP_TENSORS[name], key, tokens)] if name in _CLIP_TENSORS else []


def hugging_face_vit_parameters(name: str, key: str) -> list[StoredParameter]:
    """Return what the tensor `name` of a ViT or DeiT holds, `key` in the file, like `hugging_face_clip_parameters`."""
    return _image_model_parameters(name, key, _VIT_IN_BLOCK, {})


def hugging_face_dinov2_parameters(name: str, key: str) -> list[StoredParameter]:
    """Return what the tensor `name` of a DINOv2 holds, `key` in the file, like `hugging_face_clip_parameters`."""
    return _image_model_parameters(name, key, _DINOV2_IN_BLOCK, _DINOV2_SCALES)


def _image_model_parameters(
    name: str, key: str, in_block: Mapping[str, str], scales: Mapping[str, str]
) -> list[StoredParameter]:
    layer, _, kind = name.rpartition(".")
    if match := _BLOCK.fullmatch(name):
        block, layer, kind = match.groups()
        if kind == "lambda1":
            return [StoredParameter.of(f"blocks.{block}.{scales[layer]}", key)] if layer in scales else []
        return [StoredParameter.of(f"blocks.{block}.{in_block[layer]}.{kind}", key)] if layer in in_block else []
    if name in ("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.bias"):
        return [StoredParameter.of(f"patch_embedding.{kind}", key, flattened)]
    if name in ("layernorm.weight", "layernorm.bias"):
        return [StoredParameter.of(f"ln_last.{kind}", key)]
    if name in ("pooler.dense.weight", "pooler.dense.bias"):  # whose tanh no head that is read comes after
        return [StoredParameter.of(f"{UNUSED}pooler.{kind}", key)]
    if name == "embeddings.cls_token":
        return [StoredParameter.of("class_token", key, one_token)]
    return [StoredParameter.of(_TOKENS[name], key, tokens)] if name in _TOKENS else []
