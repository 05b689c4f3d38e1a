"""The architecture of Hugging Face's vision transformers, as config.json describes them."""

from __future__ import annotations

from typing import Any

from mingle_edge.checkpoints.config_fields import MOST_LAYERS, flag, positive, refusal, size, square
from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.checkpoints.preprocessing import hugging_face_preprocess
from mingle_edge.clip.architecture import Activation, VisionArchitecture

# transformers leaves values equal to its defaults out of config.json.
_ANY = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3, "image_size": 224}
_CLIP = _ANY | {"intermediate_size": 3072, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_CLIP |= {"projection_dim": 512}
_SIGLIP = _ANY | {"intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP |= {"vision_use_head": True}
_VIT = _ANY | {"intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
_DINOV2 = _ANY | {"mlp_ratio": 4, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False}
DEFAULTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model"), _CLIP),
    **dict.fromkeys(("chinese_clip", "chinese_clip_vision_model"), _CLIP),
    **dict.fromkeys(("siglip", "siglip_vision_model"), _SIGLIP),
    **dict.fromkeys(("vit", "deit"), _VIT),
    "dinov2": _DINOV2 | {"num_register_tokens": 0},
    "dinov2_with_registers": _DINOV2 | {"patch_size": 16, "num_register_tokens": 4},
}
"""What transformers takes a field of a vision tower to be that a config.json does not have, by model_type."""
_NESTED = ("clip", "chinese_clip", "metaclip_2", "siglip")
"""Whole models, in whose config.json the vision tower is `vision_config`."""
_ACTIVATIONS: dict[object, Activation] = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_IMAGE_MODEL: dict[str, Any] = {"projection": False, "normalized": False}
"""Of models trained on images alone, whose classifiers read what is pooled as it is."""


def hugging_face_architecture(config: ModelConfig) -> VisionArchitecture:
    """Return the tower of a model of one of `HUGGING_FACE_TYPES`.

    Its embedding is what the model's own head reads: of an image classifier what the classifier does, of a model without one
    what that of its kind would; of all others the projected or pooled output. Raises `CheckpointError` for any other field.
    """
    source, record, kind = config.source, config.model, config.model["model_type"]
    where = "vision_config." if kind in _NESTED else ""
    # Old files state the same values twice, and transformers lets vision_config_dict win.
    vision = (record.get("vision_config_dict") or record.get("vision_config") or {}) if where else record
    if not isinstance(vision, dict):
        raise refusal(source, "vision_config", vision, "an object")
    fields = DEFAULTS[kind] | {name: value for name, value in vision.items() if value is not None}
    if fields["num_channels"] != 3:
        raise refusal(source, f"{where}num_channels", fields["num_channels"], "3")
    width, heads = (size(fields, name, source, where) for name in ("hidden_size", "num_attention_heads"))
    if "dinov2" in kind:
        if flag(fields, "use_swiglu_ffn", source, where):
            raise refusal(source, f"{where}use_swiglu_ffn", True, "false: the tower's MLPs have no gate")
        fields["intermediate_size"] = int(width * positive(fields["mlp_ratio"], f"{where}mlp_ratio", source))
    mlp_width = size(fields, "intermediate_size", source, where)
    pooled = _pooled(config, fields, where, (width, heads, mlp_width))
    return VisionArchitecture(
        preprocess=hugging_face_preprocess(config, square(fields, "image_size", source, where)),
        patch_size=square(fields, "patch_size", source, where),
        width=width,
        layers=size(fields, "num_hidden_layers", source, where, MOST_LAYERS),
        heads=heads,
        mlp_width=mlp_width,
        activation=hugging_face_activation(fields["hidden_act"], f"{where}hidden_act", source),
        layer_norm_eps=positive(fields["layer_norm_eps"], f"{where}layer_norm_eps", source),
        pre_norm="clip" in kind and "siglip" not in kind,
        patch_bias="clip" not in kind or "siglip" in kind,
        **pooled,
    )


def _pooled(config: ModelConfig, fields: dict[str, Any], where: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Return the fields from the tokens to the embedding. sizes: width, heads and MLP width."""
    source, record, kind, (width, heads, mlp_width) = config.source, config.model, config.model["model_type"], sizes
    names = record.get("architectures") or []
    if not isinstance(names, list):
        raise refusal(source, "architectures", names, "a list of names")
    if "DeiTForImageClassificationWithTeacher" in names:
        raise refusal(source, "architectures", names, "one with a single classifier, such as DeiTForImageClassification")
    classifies = any(isinstance(name, str) and name.endswith("ForImageClassification") for name in names)
    if kind in ("vit", "deit"):
        return _IMAGE_MODEL | {"output_dim": width, "registers": int(kind == "deit")}  # DeiT's distillation token
    if "dinov2" in kind:
        registers = fields["num_register_tokens"] and size(fields, "num_register_tokens", source, where)
        tokens = {"registers": registers, "pooling": "class_and_average", "norm_tokens": True, "norm_pooled": False}
        return _IMAGE_MODEL | tokens | {"output_dim": 2 * width}
    if "siglip" in kind:
        tokens = {"class_token": False, "norm_tokens": True, "norm_pooled": False, "output_dim": width}
        if classifies:
            return _IMAGE_MODEL | tokens | {"pooling": "average"}
        if not flag(fields, "vision_use_head", source, where):
            raise refusal(source, f"{where}vision_use_head", False, "true: without it there is no embedding of an image")
        pool = {"pool_heads": heads, "pool_width": width, "pool_mlp_width": mlp_width}
        return tokens | pool | {"pooling": "attention", "projection": False}
    if classifies:
        return _IMAGE_MODEL | {"pooling": "average", "norm_pooled": False, "output_dim": width}
    # The projection of a whole model follows the top of the file, whatever its vision_config says.
    return {"output_dim": size({"projection_dim": 512} | record if where else fields, "projection_dim", source)}


def hugging_face_activation(name: object, field: str, source: str) -> Activation:
    """Return the activation of one tower of a Hugging Face model. Raises `CheckpointError` for one that is not read."""
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise refusal(source, field, name, f"one of {', '.join(map(repr, _ACTIVATIONS))}")
    return _ACTIVATIONS[name]
