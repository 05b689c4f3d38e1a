"""The names of open_clip's own vision transformers, `visual.` aside."""

from __future__ import annotations

import re

from mingle_edge.checkpoints.stored_parameters import StoredParameter, flattened, thirds, transposed

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {"ln_1": "ln_1", "ln_2": "ln_2", "attn.out_proj": "out", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2"}
_SCALES = {"ls_1.gamma": "scale_1", "ls_2.gamma": "scale_2"}
_LAYERS = {
    "ln_pre": "ln_pre",
    "ln_post": "ln_last",
    "attn_pool.ln_q": "pooling.ln_q",
    "attn_pool.ln_k": "ln_tokens",
    "attn_pool.attn.out_proj": "pooling.out",
}
_TENSORS = {
    "class_embedding": "class_token",
    "positional_embedding": "positions",
    "attn_pool.query": "pooling.query",
    **{f"attn_pool.attn.{part}_proj_weight": f"pooling.{part}.weight" for part in "qkv"},
}


def open_clip_parameters(name: str, key: str) -> list[StoredParameter]:
    """Return what the tensor that open_clip calls `name` and the file `key` holds by the names of `folding`; none: unknown."""
    layer, _, kind = name.rpartition(".")
    if match := _BLOCK.fullmatch(name):
        block, rest = f"blocks.{match[1]}", match[2]
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            return thirds(block, rest.rsplit("_", 1)[1], key)
        if rest in _SCALES:
            return [StoredParameter.of(f"{block}.{_SCALES[rest]}", key)]
        layer = rest.rpartition(".")[0]
        known = layer in _IN_BLOCK and kind in ("weight", "bias")
        return [StoredParameter.of(f"{block}.{_IN_BLOCK[layer]}.{kind}", key)] if known else []
    if name in ("attn_pool.attn.in_proj_weight", "attn_pool.attn.in_proj_bias"):
        return thirds("pooling", name.rsplit("_", 1)[1], key)
    if name == "conv1.weight":
        return [StoredParameter.of("patch_embedding.weight", key, flattened)]
    if name == "proj":
        return [StoredParameter.of("projection.weight", key, transposed)]
    if layer in _LAYERS and kind in ("weight", "bias"):
        return [StoredParameter.of(f"{_LAYERS[layer]}.{kind}", key)]
    return [StoredParameter.of(_TENSORS[name], key)] if name in _TENSORS else []
