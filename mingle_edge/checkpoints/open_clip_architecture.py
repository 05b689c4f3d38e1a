"""The architecture of open_clip's own vision transformers, as `CLIPVisionCfg` describes them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import open_clip

from mingle_edge.checkpoints.config_fields import MOST_LAYERS, flag, positive, refusal, size, square
from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.checkpoints.preprocessing import open_clip_preprocess
from mingle_edge.clip.architecture import VisionArchitecture

_WHERE = "vision_cfg."
# What the tower always does. Dropout of patches happens in training only; a table of positions is stored, learned or not; and
# LayerScale is folded into weights, so those fields are free.
_FIXED: dict[str, tuple[object, ...]] = {
    "attentional_pool": (False, None, True),
    "pool_type": ("tok", "avg"),
    "pos_embed_type": ("learnable", "sin_cos_2d"),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}


def open_clip_architecture(config: ModelConfig) -> VisionArchitecture:
    """Return the tower of open_clip's `VisionTransformer`. Raises `CheckpointError` for what that tower does otherwise."""
    source, fields = config.source, vision_fields(config)
    for name, allowed in _FIXED.items():
        if fields[name] not in allowed:
            raise refusal(source, _WHERE + name, fields[name], " or ".join(map(repr, allowed)))
    if isinstance(fields["layers"], list):
        raise refusal(source, f"{_WHERE}layers", fields["layers"], "one number, for ResNets are not transformers")
    if fields["ls_init_value"] is not None:  # LayerScale, whose learned values are in the file
        positive(fields["ls_init_value"], f"{_WHERE}ls_init_value", source)
    width, head_width = (size(fields, name, source, _WHERE) for name in ("width", "head_width"))
    if width % head_width:
        raise refusal(source, f"{_WHERE}head_width", head_width, f"a divisor of the width, {width}")
    normalization = fields["norm_kwargs"] or {}
    if not isinstance(normalization, dict) or normalization.keys() - {"eps"}:
        raise refusal(source, f"{_WHERE}norm_kwargs", normalization, "eps alone, or nothing")
    mlp_width = int(width * positive(fields["mlp_ratio"], f"{_WHERE}mlp_ratio", source))
    image_size = square(fields, "image_size", source, _WHERE)
    output_dim = size(config.model, "embed_dim", source)
    attention = bool(fields["attentional_pool"])
    average = fields["pool_type"] == "avg"
    if attention and average:
        raise refusal(source, f"{_WHERE}pool_type", "avg", "'tok' with attentional_pool: one query is pooled by")
    # open_clip normalizes all tokens before it averages them, unless it is told to do so afterwards.
    before = average and not flag(fields, "final_ln_after_pool", source, _WHERE)
    return VisionArchitecture(
        preprocess=open_clip_preprocess(config, image_size),
        patch_size=square(fields, "patch_size", source, _WHERE),
        width=width,
        layers=size(fields, "layers", source, _WHERE, MOST_LAYERS),
        heads=width // head_width,
        mlp_width=size({"mlp_width": mlp_width}, "mlp_width", source, f"{_WHERE}width * mlp_ratio, the "),
        output_dim=output_dim,
        activation=_activation(config, fields["act_kwargs"]),
        layer_norm_eps=positive(normalization.get("eps", 1e-5), f"{_WHERE}norm_kwargs.eps", source),
        pre_norm=not flag(fields, "no_ln_pre", source, _WHERE),
        pooling="attention" if attention else "average" if average else "class_token",
        norm_tokens=attention or before,
        norm_pooled=not before,
        pool_heads=size(fields, "attn_pooler_heads", source, _WHERE) if attention else 0,
        pool_width=output_dim if attention else 0,
    )


def vision_fields(config: ModelConfig) -> dict[str, Any]:
    """Return all fields of `CLIPVisionCfg`, with defaults. Raises `CheckpointError` for one that open_clip does not know."""
    source, vision = config.source, config.model["vision_cfg"]
    defaults = {field.name: field.default for field in dataclasses.fields(open_clip.CLIPVisionCfg)}
    if not isinstance(vision, dict):
        raise refusal(source, "vision_cfg", vision, "an object")
    for name in vision.keys() - defaults.keys():
        raise refusal(source, f"{_WHERE}{name}", vision[name], "absent, for open_clip knows no such field")
    return defaults | vision


def open_clip_activation(config: ModelConfig) -> Literal["quick_gelu", "gelu"]:
    """Return the activation of both towers of an open_clip model, unless one has options of its own."""
    quick = config.model.get("quick_gelu", False)
    if not isinstance(quick, bool):
        raise refusal(config.source, "quick_gelu", quick, "true or false")
    return "quick_gelu" if quick else "gelu"


def _activation(config: ModelConfig, options: object) -> Literal["quick_gelu", "gelu", "gelu_tanh"]:
    activation, where = open_clip_activation(config), f"{_WHERE}act_kwargs"
    if options in (None, {}):
        return activation
    if activation == "quick_gelu":
        raise refusal(config.source, where, options, "absent, for QuickGELU has no options")
    if options not in ({"approximate": "tanh"}, {"approximate": "none"}):
        raise refusal(config.source, where, options, "approximate alone, 'tanh' or 'none'")
    return "gelu_tanh" if options == {"approximate": "tanh"} else activation
