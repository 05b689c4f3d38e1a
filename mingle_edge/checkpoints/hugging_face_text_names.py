"""The names of Hugging Face's CLIP text tower for the parameters of open_clip's."""

from __future__ import annotations

_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OUTSIDE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}


def hugging_face_text_keys(layers: int) -> dict[str, tuple[str, ...]]:
    """Return, for each parameter of open_clip's text tower, the Hugging Face keys whose rows, one after the other, make it up.

    `text_projection` is stored transposed.
    """
    keys: dict[str, tuple[str, ...]] = {name: (key,) for name, key in _OUTSIDE.items()}
    for i in range(layers):
        block, source = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            keys[f"{block}.attn.in_proj_{kind}"] = tuple(f"{source}.self_attn.{part}_proj.{kind}" for part in "qkv")
            keys |= {f"{block}.{ours}.{kind}": (f"{source}.{theirs}.{kind}",) for theirs, ours in _IN_BLOCK.items()}
    return keys
