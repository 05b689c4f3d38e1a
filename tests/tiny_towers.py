"""Tiny random vision towers of every kind that is read, built and saved by the library they belong to.

Every parameter is random, so that no tensor is zero or one and none could be left out unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIDE = 32
Embed = Callable[[nn.Module, Tensor], Tensor]

_TIMM = {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2}


def _register(name: str, kind: type[nn.Module], **own: Any) -> None:
    """Make a tiny model known to timm."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        asked = {key: value for key, value in options.items() if key in ("global_pool", "num_classes")}
        model = kind(**_TIMM | own | asked)
        model.default_cfg = {}
        return model

    build.__name__, build.__module__ = f"mingle_tiny_{name}", __name__
    register_model(build)


_register("vit", VisionTransformer)
_register("clip", VisionTransformer, pre_norm=True, act_layer="quick_gelu")
_register("siglip", VisionTransformer, class_token=False, act_layer="gelu_tanh")
_register("gap", VisionTransformer, class_token=False, reg_tokens=1, fc_norm=False)
_register("registers", VisionTransformer, reg_tokens=2, no_embed_class=True, init_values=0.1, qkv_bias=False)
_register("eva", Eva, use_rot_pos_emb=False, init_values=0.1)
_register("eva_unfused", Eva, use_rot_pos_emb=False, qkv_fused=False)


@dataclass(frozen=True)
class Kind:
    """One kind of tower: how to build it, and what its embedding is."""

    build: Callable[[], nn.Module]
    embed: Embed
    config: dict[str, Any] | None = None  # of open_clip
    prefix: str = ""  # of names in the file

    def model(self, seed: int = 0) -> nn.Module:
        """Build it with random parameters."""
        model = self.build().eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                norm = value.ndim == 1 and name.endswith("weight")
                scale = 0.3 if value.ndim < 2 or "token" in name else 1.5 * value[0].numel() ** -0.5
                value.copy_(norm + scale * noise)
        return model

    def write(self, folder: Path, model: nn.Module) -> tuple[str, str]:
        """Save it as its library does; returns the names of model and weights within `folder`."""
        if self.config is None:
            model.save_pretrained(folder / "model")
            return "model", "model"
        (folder / "model.json").write_text(json.dumps(self.config))
        save_file({self.prefix + name: value for name, value in model.state_dict().items()}, folder / "weights.safetensors")
        return "model.json", "weights.safetensors"

    def weights(self, folder: Path) -> Path:
        """Return the file of the weights that `write` wrote."""
        return folder / ("weights.safetensors" if self.config is not None else "model/model.safetensors")

    def load(self, model: nn.Module, folder: Path) -> None:
        """Give a model the values in the file, by the library itself."""
        if self.config is None:
            loaded = type(model).from_pretrained(folder / "model")
            model.load_state_dict(loaded.state_dict())
        else:
            state = load_file(self.weights(folder))
            model.load_state_dict({name.removeprefix(self.prefix): value for name, value in state.items()})


def _open_clip(quick_gelu: bool = False, **vision: Any) -> Kind:
    tiny = {"image_size": SIDE, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0}
    config = {"embed_dim": 24, "vision_cfg": (vision if "timm_model_name" in vision else tiny) | vision, "text_cfg": {}}
    config |= {"quick_gelu": quick_gelu}
    config["vision_cfg"].setdefault("image_size", SIDE)

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return open_clip.model._build_vision_tower(24, dict(config["vision_cfg"]), quick_gelu)

    return Kind(build, lambda model, images: model(images), config, "visual.")


def _timm(name: str, pool: str, proj: str | None = "none", bias: bool = False) -> Kind:
    return _open_clip(timm_model_name=f"mingle_tiny_{name}", timm_pool=pool, timm_proj=proj, timm_proj_bias=bias)


_VISION = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": SIDE, "patch_size": 8}
_MLP = {"intermediate_size": 80}
_TEXT = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60}
_TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def _hugging_face(name: str, embed: Embed, *, whole: str | None = None, **options: Any) -> Kind:
    def build() -> nn.Module:
        kind = getattr(transformers, name)
        own = _VISION | ({} if "Dinov2" in name else _MLP) | options
        with torch.random.fork_rng(devices=[]):
            config = kind.config_class(**({"vision_config": own, "text_config": _TEXT, **json.loads(whole)} if whole else own))
            return kind(config)

    return Kind(build, embed)


def _features(model: Any, images: Tensor) -> Tensor:
    found = model.get_image_features(pixel_values=images)
    return getattr(found, "pooler_output", found)


def _pooled(model: Any, images: Tensor) -> Tensor:
    return model(pixel_values=images).pooler_output


def _class_token(model: Any, images: Tensor) -> Tensor:
    return model(pixel_values=images).last_hidden_state[:, 0]


def _before_classifier(model: Any, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(pixel_values=images)
    hook.remove()
    return seen[0]


def _class_and_average(model: Any, images: Tensor) -> Tensor:
    tokens = model(pixel_values=images).last_hidden_state
    patches = tokens[:, 1 + getattr(model.config, "num_register_tokens", 0) :]
    return torch.cat([tokens[:, 0], patches.mean(1)], dim=1)


_PROJECTED = '{"projection_dim": 24}'
KINDS: dict[str, Kind] = {
    "open_clip": _open_clip(quick_gelu=True),
    "open_clip, pixels beyond the last patch": _open_clip(image_size=36),
    "open_clip, CLIPA": _open_clip(pool_type="avg", no_ln_pre=True, final_ln_after_pool=True),
    "open_clip, average of normalized tokens": _open_clip(pool_type="avg", norm_kwargs={"eps": 1e-3}),
    "open_clip, LayerScale": _open_clip(ls_init_value=0.1, pos_embed_type="sin_cos_2d", act_kwargs={"approximate": "tanh"}),
    "open_clip, CoCa": _open_clip(attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=3),
    "timm, SigLIP": _timm("siglip", "map"),
    "timm, projected": _timm("vit", "token", "linear", bias=True),
    "timm, trunk's own head": _timm("vit", "token", None),
    "timm, pre-norm": _timm("clip", "token", "linear"),
    "timm, average": _timm("vit", "avg"),
    "timm, average of normalized tokens": _timm("gap", "avg"),
    "timm, registers": _timm("registers", "token"),
    "timm, EVA": _timm("eva", "token", None),
    "timm, EVA with q, k and v apart": _timm("eva_unfused", "avg"),
    "timm, EVA pooled by attention": _timm("eva", "map"),
    "CLIPModel": _hugging_face("CLIPModel", _features, whole=_PROJECTED),
    "CLIPForImageClassification": _hugging_face("CLIPForImageClassification", _before_classifier, whole=_PROJECTED),
    "ChineseCLIPModel": _hugging_face("ChineseCLIPModel", _features, whole=_PROJECTED),
    "MetaClip2Model": _hugging_face("MetaClip2Model", _features, whole=_PROJECTED),
    "MetaClip2ForImageClassification": _hugging_face("MetaClip2ForImageClassification", _before_classifier, whole=_PROJECTED),
    "MetaClip2VisionModelWithProjection": _hugging_face(
        "MetaClip2VisionModelWithProjection", lambda model, images: model(images).image_embeds, projection_dim=24
    ),
    "SiglipModel": _hugging_face("SiglipModel", _features, whole="{}"),
    "SiglipVisionModel": _hugging_face("SiglipVisionModel", _pooled),
    "SiglipForImageClassification": _hugging_face("SiglipForImageClassification", _before_classifier, whole="{}"),
    "ViTModel": _hugging_face("ViTModel", _class_token),
    "ViTForImageClassification": _hugging_face("ViTForImageClassification", _before_classifier, qkv_bias=False),
    "DeiTModel": _hugging_face("DeiTModel", _class_token),
    "DeiTForImageClassification": _hugging_face("DeiTForImageClassification", _before_classifier),
    "Dinov2Model": _hugging_face("Dinov2Model", _class_and_average),
    "Dinov2ForImageClassification": _hugging_face("Dinov2ForImageClassification", _before_classifier),
    "Dinov2WithRegistersModel": _hugging_face("Dinov2WithRegistersModel", _class_and_average),
    "Dinov2WithRegistersForImageClassification": _hugging_face(
        "Dinov2WithRegistersForImageClassification", _before_classifier, num_register_tokens=3, qkv_bias=False
    ),
}
