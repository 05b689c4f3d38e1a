"""The architecture of a vision tower, from the configuration files of open_clip and Hugging Face.

Whatever the tower of `mingle_edge.clip.vision_tower` cannot express exactly is refused here, by field and value: a model that
runs a little differently from how it was trained is the failure nobody notices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip

from mingle_edge.checkpoints.model_config import ModelConfig, is_tag, read_model_config
from mingle_edge.checkpoints.preprocessing import hugging_face_preprocess, open_clip_preprocess
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError, shown

LARGEST = 1 << 16
"""No size in a configuration may exceed this; it keeps a damaged file from asking for endless memory."""
MOST_LAYERS = 1 << 10

# What the tower always does, as open_clip's CLIPVisionCfg says it. A final LayerNorm before or after taking the class token is
# the same, and dropout of patches happens in training only, so those fields are free.
_OPEN_CLIP_FIXED: dict[str, tuple[object, ...]] = {
    "timm_model_name": (None, ""),
    "attentional_pool": (False,),
    "pool_type": ("tok",),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "ls_init_value": (None,),
    "act_kwargs": (None,),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}
# transformers leaves values equal to its defaults out of config.json.
_HUGGING_FACE_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def read_architecture(model: str, base: Path, weights: str | None = None) -> VisionArchitecture:
    """Read the vision tower that `model` describes.

    Args:
        model: an open_clip name, or relative to `base` an open_clip JSON config (bare, or as on the hub with
            `preprocess_cfg`) or a Hugging Face folder of a CLIPModel, CLIPVisionModel or CLIPVisionModelWithProjection.
        base: the folder that relative paths start from.
        weights: where the backbone's weights come from; if that is a pretrained tag of the open_clip name `model`, the
            tag's mean and standard deviation are used.

    Raises:
        CheckpointError: no such model, or one with a field that the tower cannot express.
    """
    config = read_model_config(model, base)
    if config.kind == "open_clip" and weights is not None and is_tag(weights, base):
        config = dataclasses.replace(config, preprocess=open_clip.get_pretrained_cfg(model, weights))
    return architecture_of(config)


def architecture_of(config: ModelConfig) -> VisionArchitecture:
    """Return the vision tower that a configuration describes. Raises `CheckpointError` like `read_architecture`."""
    architecture = _of_open_clip(config) if config.kind == "open_clip" else _of_hugging_face(config)
    if architecture.image_size % architecture.patch_size:
        patch = f"a multiple of patch_size, {architecture.patch_size}"
        raise _refusal(config.source, "image_size", architecture.image_size, patch)
    if architecture.width % architecture.heads:
        raise _refusal(config.source, "width", architecture.width, f"a multiple of the number of heads, {architecture.heads}")
    return architecture


def _of_open_clip(config: ModelConfig) -> VisionArchitecture:
    source, vision = config.source, config.model["vision_cfg"]
    known = {field.name for field in dataclasses.fields(open_clip.CLIPVisionCfg)}
    if not isinstance(vision, dict):
        raise _refusal(source, "vision_cfg", vision, "an object")
    for name in vision.keys() - known:
        raise _refusal(source, f"vision_cfg.{name}", vision[name], "absent, for open_clip knows no such field")
    fields = {field.name: field.default for field in dataclasses.fields(open_clip.CLIPVisionCfg)} | vision
    for name, allowed in _OPEN_CLIP_FIXED.items():
        if fields[name] not in allowed:
            raise _refusal(source, f"vision_cfg.{name}", fields[name], f"{allowed[0]!r}")
    if isinstance(fields["layers"], list):
        raise _refusal(source, "vision_cfg.layers", fields["layers"], "one number, for ResNets are not transformers")
    width, head_width = (size(fields, name, source, "vision_cfg.") for name in ("width", "head_width"))
    if width % head_width:
        raise _refusal(source, "vision_cfg.head_width", head_width, f"a divisor of the width, {width}")
    normalization = fields["norm_kwargs"] or {}
    if not isinstance(normalization, dict) or normalization.keys() - {"eps"}:
        raise _refusal(source, "vision_cfg.norm_kwargs", normalization, "eps alone, or nothing")
    mlp_width = int(width * positive(fields["mlp_ratio"], "vision_cfg.mlp_ratio", source))
    image_size = _square(fields, "image_size", source, "vision_cfg.")
    return VisionArchitecture(
        preprocess=open_clip_preprocess(config, image_size),
        patch_size=_square(fields, "patch_size", source, "vision_cfg."),
        width=width,
        layers=size(fields, "layers", source, "vision_cfg.", MOST_LAYERS),
        heads=width // head_width,
        mlp_width=size({"mlp_width": mlp_width}, "mlp_width", source, "vision_cfg.width * mlp_ratio, the "),
        output_dim=size(config.model, "embed_dim", source),
        activation=open_clip_activation(config),
        layer_norm_eps=positive(normalization.get("eps", 1e-5), "vision_cfg.norm_kwargs.eps", source),
    )


def _of_hugging_face(config: ModelConfig) -> VisionArchitecture:
    source, record = config.source, config.model
    nested = record["model_type"] == "clip"
    where = "vision_config." if nested else ""
    # Old files state the same values twice, and transformers lets vision_config_dict win.
    vision = (record.get("vision_config_dict") or record.get("vision_config") or {}) if nested else record
    if not isinstance(vision, dict):
        raise _refusal(source, "vision_config", vision, "an object")
    fields = _HUGGING_FACE_VISION_DEFAULTS | {name: value for name, value in vision.items() if value is not None}
    if fields["num_channels"] != 3:
        raise _refusal(source, f"{where}num_channels", fields["num_channels"], "3")
    image_size = _square(fields, "image_size", source, where)
    return VisionArchitecture(
        preprocess=hugging_face_preprocess(config, image_size),
        patch_size=_square(fields, "patch_size", source, where),
        width=size(fields, "hidden_size", source, where),
        layers=size(fields, "num_hidden_layers", source, where, MOST_LAYERS),
        heads=size(fields, "num_attention_heads", source, where),
        mlp_width=size(fields, "intermediate_size", source, where),
        # The projection of a whole model follows the top of the file, whatever its vision_config says.
        output_dim=size({"projection_dim": 512} | record if nested else fields, "projection_dim", source),
        activation=hugging_face_activation(fields["hidden_act"], f"{where}hidden_act", source),
        layer_norm_eps=positive(fields["layer_norm_eps"], f"{where}layer_norm_eps", source),
    )


def open_clip_activation(config: ModelConfig) -> Literal["quick_gelu", "gelu"]:
    """Return the activation of both towers of an open_clip model."""
    quick = config.model.get("quick_gelu", False)
    if not isinstance(quick, bool):
        raise _refusal(config.source, "quick_gelu", quick, "true or false")
    return "quick_gelu" if quick else "gelu"


def hugging_face_activation(name: object, field: str, source: str) -> Literal["quick_gelu", "gelu"]:
    """Return the activation of one tower of a Hugging Face model. Raises `CheckpointError` for any but the two of CLIP."""
    if name == "quick_gelu":
        return "quick_gelu"
    if name == "gelu":
        return "gelu"
    raise _refusal(source, field, name, "'quick_gelu' or 'gelu'")


def size(fields: Mapping[str, Any], name: str, source: str, where: str = "", most: int = LARGEST) -> int:
    """Return a size in a configuration, `fields[name]`. Raises `CheckpointError` unless it is an integer from 1 to `most`."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise _refusal(source, where + name, value, f"a whole number from 1 to {most}")
    return value


def positive(value: object, field: str, source: str) -> float:
    """Return a number of a configuration. Raises `CheckpointError` unless it is positive and below `LARGEST`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < LARGEST:
        raise _refusal(source, field, value, "a positive number")
    return float(value)


def _square(fields: Mapping[str, Any], name: str, source: str, where: str = "") -> int:
    value = fields[name]
    if isinstance(value, list):
        if len(value) != 2 or value[0] != value[1]:
            raise _refusal(source, where + name, value, "one number, or two equal ones: images and patches are square")
        value = value[0]
    return size({name: value}, name, source, where)


def _refusal(source: str, field: str, value: object, rule: str) -> CheckpointError:
    return CheckpointError(
        f"{source}: {field} is {shown(value)}, but must be {rule}; mingle-edge runs plain CLIP vision transformers "
        "such as ViT-B-32, ViT-B-16 and ViT-L-14"
    )
