"""The names of open_clip's vision tower (OpenAI's own), without their `visual.` prefix."""

from __future__ import annotations

import re

from mingle_edge.checkpoints.pieces import Piece

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {
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
_OUTSIDE = {
    "class_embedding": "class_token",
    "positional_embedding": "positions",
    "ln_pre.weight": "ln_pre.weight",
    "ln_pre.bias": "ln_pre.bias",
    "ln_post.weight": "ln_post.weight",
    "ln_post.bias": "ln_post.bias",
}


def open_clip_pieces(name: str, key: str) -> list[Piece]:
    """The internal parameters in the tensor that open_clip calls `name` and the file `key`; none if it is unknown."""
    if match := _BLOCK.fullmatch(name):
        block, rest = f"blocks.{match[1]}", match[2]
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = rest.rsplit("_", 1)[1]
            return [Piece(f"{block}.{part}.{kind}", key, third=i) for i, part in enumerate("qkv")]
        return [Piece(f"{block}.{_IN_BLOCK[rest]}", key)] if rest in _IN_BLOCK else []
    if name == "conv1.weight":
        return [Piece("patch_embedding.weight", key, layout="flattened")]
    if name == "proj":
        return [Piece("projection.weight", key, layout="transposed")]
    return [Piece(_OUTSIDE[name], key)] if name in _OUTSIDE else []
