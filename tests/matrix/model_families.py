"""Families of tiny random models, each built, preprocessed and run by the library that owns it: the oracles of the matrix."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
import transformers
from PIL.Image import Image
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIDE, PATCH, WIDTH, LAYERS, HEADS, DIM = 32, 8, 48, 2, 3, 24
CLASSES = ("rose", "tulip", "daisy")


@dataclass(frozen=True)
class Backbone:
    """What a task file's `[backbone]` table says."""

    model: str
    weights: str | None


@dataclass(frozen=True)
class Family:
    """Models of one architecture as one library has them."""

    name: str
    library: str
    build: Callable[[], nn.Module]
    """A model with the library's initial values."""
    write_backbone: Callable[[nn.Module, Path], Backbone]
    embed: Callable[[nn.Module, Sequence[Image]], Tensor]
    """What the head is applied to, `[n, dim]`, from pictures, by the library's own preprocessing and forward pass."""
    dim: int = DIM
    classifier: bool = False
    """Whether the checkpoint brings its own linear head and the names of its classes."""
    settings: dict[str, Any] = field(default_factory=dict)

    def pretrained(self) -> nn.Module:
        """Return a model every parameter of which is random, so that no tensor can be missed or mixed up unseen."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return perturbed(self.build().eval().requires_grad_(False), seed=0, scale=0.1)

    def finetuned(self, seed: int) -> nn.Module:
        """Return the pretrained model with a random difference on every parameter."""
        return perturbed(self.pretrained(), seed=1 + seed, scale=0.02)


def perturbed(model: nn.Module, seed: int, scale: float) -> nn.Module:
    """Return a copy of a model with noise added to every parameter."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in changed.parameters():
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return changed


def _open_clip(name: str, vision: dict[str, Any], preprocess: dict[str, Any] | None = None, **model: Any) -> Family:
    """Return a family of open_clip, from its configuration."""
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": DIM, "vision_cfg": {"image_size": SIDE} | vision, "text_cfg": text} | model
    kind = open_clip.CoCa if "multimodal_cfg" in model else open_clip.CustomTextCLIP
    if "timm_model_name" not in vision and kind is not open_clip.CoCa:
        kind = open_clip.CLIP
    cfg = open_clip.transform.PreprocessCfg(**{"size": SIDE} | (preprocess or {}))
    transform = open_clip.transform.image_transform_v2(cfg, is_train=False)

    def write_backbone(module: nn.Module, folder: Path) -> Backbone:
        record = {"model_cfg": config, "preprocess_cfg": preprocess or {}}
        (folder / "model.json").write_text(json.dumps(record))
        save_file(module.state_dict(), folder / "backbone.safetensors")
        return Backbone("model.json", "backbone.safetensors")

    def embed(module: Any, pictures: Sequence[Image]) -> Tensor:
        features = module.encode_image(torch.stack([transform(picture) for picture in pictures]), normalize=True)
        return features if isinstance(features, Tensor) else features[0]

    return Family(name, "open_clip", lambda: kind(**copy.deepcopy(config)), write_backbone, embed, config["embed_dim"])


_PLAIN = {"patch_size": PATCH, "width": WIDTH, "layers": LAYERS, "head_width": WIDTH // HEADS}
_SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}


def _timm(name: str, kind: type[nn.Module], *, pool: str, proj: str | None, **options: Any) -> dict[str, Any]:
    """Return the vision configuration of a tiny model that timm then knows by this name."""
    sizes = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS}

    def make(pretrained: bool = False, **given: Any) -> nn.Module:
        given.pop("pretrained_cfg", None), given.pop("pretrained_cfg_overlay", None), given.pop("cache_dir", None)
        model = kind(**{**sizes, **options, **given})
        model.default_cfg = {}
        return model

    make.__name__ = make.__qualname__ = name
    setattr(sys.modules[__name__], name, make)
    timm.models.register_model(make)
    return {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": proj}


OPEN_CLIP = (
    _open_clip("CLIP, QuickGELU", _PLAIN, quick_gelu=True),
    _open_clip("CLIP, GELU", _PLAIN),
    _open_clip("CLIP, tanh GELU", _PLAIN | {"act_kwargs": {"approximate": "tanh"}}),
    _open_clip("CLIPA: mean of the patches, no ln_pre", _PLAIN | {"pool_type": "avg", "no_ln_pre": True}),
    _open_clip(
        "CLIPA v2: norm after pooling, fixed positions",
        _PLAIN | {"pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True, "pos_embed_type": "sin_cos_2d"},
    ),
    _open_clip("CLIP with LayerScale", _PLAIN | {"ls_init_value": 0.5}),
    _open_clip(
        "CoCa: attentional pooling",
        _PLAIN | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        multimodal_cfg={"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    ),
    _open_clip(
        "SigLIP through timm",
        _timm("tiny_siglip", VisionTransformer, pool="map", proj="none", class_token=False, act_layer="gelu_tanh"),
        _SIGLIP,
        embed_dim=WIDTH,
    ),
    _open_clip("ViT through timm", _timm("tiny_vit", VisionTransformer, pool="token", proj="linear")),
    _open_clip("ViT through timm, own head", _timm("tiny_vit_clip", VisionTransformer, pool="token", proj=None, pre_norm=True)),
    _open_clip(
        "ViT through timm, mean of the patches",
        _timm("tiny_vit_gap", VisionTransformer, pool="avg", proj="linear", class_token=False, global_pool="avg"),
    ),
    _open_clip(
        "ViT with registers and LayerScale through timm",
        _timm("tiny_vit_reg", VisionTransformer, pool="avg", proj="linear", reg_tokens=3, no_embed_class=True, init_values=0.5),
    ),
    _open_clip(
        "EVA-01 through timm",
        _timm("tiny_eva", Eva, pool="token", proj=None, qkv_fused=True, use_rot_pos_emb=False, mlp_ratio=2),
    ),
)


def _hugging_face(name: str, kind: str, config: Any, processor: str, options: dict[str, Any], **family: Any) -> Family:
    """Return a family of transformers: a class, its configuration, its image processor and the options of that."""
    make = getattr(transformers, f"{processor}Pil", None) or getattr(transformers, processor)
    images = make(**options)

    def write_backbone(module: nn.Module, folder: Path) -> Backbone:
        module.save_pretrained(folder / "backbone")
        images.save_pretrained(folder / "backbone")
        return Backbone("backbone", None)

    def embed(module: Any, pictures: Sequence[Image]) -> Tensor:
        pixels = images(list(pictures), return_tensors="pt")["pixel_values"]
        if family.get("classifier"):
            seen: list[Tensor] = []
            with module.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
                module(pixels)
            return seen[0]
        base = module.get_base_model() if hasattr(module, "get_base_model") else module  # of an adapter, with it inside
        features = base.get_image_features(pixels)
        return F.normalize(getattr(features, "pooler_output", features), dim=-1)

    def build() -> nn.Module:
        return getattr(transformers, kind)(copy.deepcopy(config))

    return Family(name, "transformers", build, write_backbone, embed, **family)


_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_TEXT = {
    "vocab_size": 300,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
_TEXT_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_CROP = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
_SQUASH = {"size": {"height": SIDE, "width": SIDE}}
_LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}


def _two_towers(name: str, kind: str, config: str, processor: str, options: dict[str, Any], **family: Any) -> Family:
    both = getattr(transformers, config)(text_config=_TEXT | _TEXT_ENDS, vision_config=_SIZES, projection_dim=DIM)
    return _hugging_face(name, kind, both, processor, options, **family)


HUGGING_FACE = (
    _two_towers("CLIPModel", "CLIPModel", "CLIPConfig", "CLIPImageProcessor", _CROP),
    _two_towers("SiglipModel", "SiglipModel", "SiglipConfig", "SiglipImageProcessor", _SQUASH, dim=WIDTH),
    _two_towers("MetaClip2Model", "MetaClip2Model", "MetaClip2Config", "CLIPImageProcessor", _CROP),
    _two_towers("ChineseCLIPModel", "ChineseCLIPModel", "ChineseCLIPConfig", "ChineseCLIPImageProcessor", _CROP),
    _hugging_face(
        "ViTForImageClassification",
        "ViTForImageClassification",
        transformers.ViTConfig(**_SIZES, **_LABELS),
        "ViTImageProcessor",
        _SQUASH,
        dim=WIDTH,
        classifier=True,
    ),
    _hugging_face(
        "DeiTForImageClassification",
        "DeiTForImageClassification",
        transformers.DeiTConfig(**_SIZES, **_LABELS),
        "DeiTImageProcessor",
        {"size": {"height": 40, "width": 40}, "crop_size": {"height": SIDE, "width": SIDE}},
        dim=WIDTH,
        classifier=True,
    ),
    _hugging_face(
        "Dinov2ForImageClassification",
        "Dinov2ForImageClassification",
        transformers.Dinov2Config(**_SIZES | {"image_size": 48}, mlp_ratio=2, layerscale_value=0.5, **_LABELS),
        "BitImageProcessor",
        {"size": {"shortest_edge": 36}, "crop_size": {"height": SIDE, "width": SIDE}},
        dim=2 * WIDTH,
        classifier=True,
    ),
    _hugging_face(
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersForImageClassification",
        transformers.Dinov2WithRegistersConfig(
            **_SIZES | {"image_size": 48}, mlp_ratio=2, layerscale_value=0.5, num_register_tokens=2, **_LABELS
        ),
        "BitImageProcessor",
        {"size": {"shortest_edge": 36}, "crop_size": {"height": SIDE, "width": SIDE}},
        dim=2 * WIDTH,
        classifier=True,
    ),
    _hugging_face(
        "CLIPForImageClassification",
        "CLIPForImageClassification",
        transformers.CLIPConfig(text_config=_TEXT | _TEXT_ENDS, vision_config=_SIZES, projection_dim=DIM, **_LABELS),
        "CLIPImageProcessor",
        _CROP,
        dim=WIDTH,
        classifier=True,
    ),
)
FAMILIES = {family.name: family for family in (*OPEN_CLIP, *HUGGING_FACE)}
