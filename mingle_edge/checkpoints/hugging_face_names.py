"""The names of Hugging Face's CLIP: its vision tower in ours, its text tower in open_clip's."""

from __future__ import annotations

import re

from mingle_edge.checkpoints.pieces import Piece

_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "out",
    "layer_norm2": "ln_2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_OUTSIDE = {
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


def hugging_face_pieces(name: str, key: str) -> list[Piece]:
    """The internal parameter in the tensor called `name` (no `vision_model.`), `key` in the file; none if it is unknown."""
    if match := _BLOCK.fullmatch(name):
        block, layer, kind = match.groups()
        return [Piece(f"blocks.{block}.{_IN_BLOCK[layer]}.{kind}", key)] if layer in _IN_BLOCK else []
    if name == "embeddings.patch_embedding.weight":
        return [Piece("patch_embedding.weight", key, layout="flattened")]
    return [Piece(_OUTSIDE[name], key)] if name in _OUTSIDE else []


def hugging_face_text_keys(layers: int) -> dict[str, tuple[str, ...]]:
    """For each parameter of open_clip's text tower the Hugging Face keys whose rows, one after the other, make it up.

    `text_projection` is stored transposed.
    """
    keys: dict[str, tuple[str, ...]] = {name: (key,) for name, key in _TEXT_OUTSIDE.items()}
    for i in range(layers):
        block, source = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            keys[f"{block}.attn.in_proj_{kind}"] = tuple(f"{source}.self_attn.{part}_proj.{kind}" for part in "qkv")
            keys |= {f"{block}.{ours}.{kind}": (f"{source}.{theirs}.{kind}",) for theirs, ours in _TEXT_IN_BLOCK.items()}
    return keys
