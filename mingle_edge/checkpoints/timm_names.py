"""The names of timm's vision transformers within open_clip's `TimmModel`, `visual.` aside."""

from __future__ import annotations

import re

from mingle_edge.checkpoints.stored_parameters import Source, StoredParameter, flattened, one_token, thirds, tokens

_BLOCK = re.compile(r"trunk\.blocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.q_proj": "q",
    "attn.k_proj": "k",
    "attn.v_proj": "v",
    "attn.proj": "out",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_VECTORS = {
    "attn.q_bias": "q.bias",
    "attn.v_bias": "v.bias",
    "ls1.gamma": "scale_1",
    "ls2.gamma": "scale_2",
    "gamma_1": "scale_1",
    "gamma_2": "scale_2",
}
_LAYERS = {
    "trunk.norm_pre": "ln_pre",
    "trunk.norm": "ln_last",
    "trunk.fc_norm": "ln_post",
    "trunk.attn_pool.q": "pooling.q",
    "trunk.attn_pool.proj": "pooling.out",
    "trunk.attn_pool.norm": "pooling.ln",
    "trunk.attn_pool.mlp.fc1": "pooling.fc1",
    "trunk.attn_pool.mlp.fc2": "pooling.fc2",
    "trunk.head": "projection",
    "head.proj": "projection",
}
_TOKENS = {
    "trunk.reg_token": "registers",
    "trunk.pos_embed": "positions",
    "trunk.attn_pool.latent": "pooling.query",
}


def timm_parameters(name: str, key: str) -> list[StoredParameter]:
    """Return what the tensor that `TimmModel` calls `name`, the file `key`, holds by the names of `folding`; none: unknown."""
    layer, _, kind = name.rpartition(".")
    if match := _BLOCK.fullmatch(name):
        block, rest = f"blocks.{match[1]}", match[2]
        if rest in ("attn.qkv.weight", "attn.qkv.bias"):
            return thirds(block, kind, key)
        if rest in _VECTORS:
            return [StoredParameter.of(f"{block}.{_VECTORS[rest]}", key)]
        layer = rest.rpartition(".")[0]
        known = layer in _IN_BLOCK and kind in ("weight", "bias")
        return [StoredParameter.of(f"{block}.{_IN_BLOCK[layer]}.{kind}", key)] if known else []
    if name in ("trunk.patch_embed.proj.weight", "trunk.patch_embed.proj.bias"):
        return [StoredParameter.of(f"patch_embedding.{kind}", key, flattened)]
    if name in ("trunk.attn_pool.kv.weight", "trunk.attn_pool.kv.bias"):
        return [StoredParameter(f"pooling.{part}.{kind}", (Source(key, i, 2),)) for i, part in enumerate("kv")]
    if layer in _LAYERS and kind in ("weight", "bias"):
        return [StoredParameter.of(f"{_LAYERS[layer]}.{kind}", key)]
    if name == "trunk.cls_token":
        return [StoredParameter.of("class_token", key, one_token)]
    return [StoredParameter.of(_TOKENS[name], key, tokens)] if name in _TOKENS else []
