"""Models and files that are refused, each written by the library that owns it, and what the refusal says."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import peft
import timm
import torch
import torch.distributed.checkpoint as dcp
import transformers
from model_families import DIM, FAMILIES, HEADS, LAYERS, PATCH, SIDE, WIDTH
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Refused:
    """Something that is no task of a backbone of CLIP, or no backbone."""

    name: str
    library: str
    write: Callable[[Path], str]
    """Write it below a folder; return what the task file calls it, relative to that folder."""
    says: str
    """A pattern of the message."""
    as_backbone: bool = False
    """Whether it is given as `model` of `[backbone]`, by its configuration."""


def clip() -> nn.Module:
    """Return the backbone of the tasks, a CLIPModel of transformers."""
    return FAMILIES["CLIPModel"].pretrained()


def _state(name: str, library: str, make: Callable[[], dict[str, Any]], says: str) -> Refused:
    """Return what torch saves of a state dict."""

    def write(folder: Path) -> str:
        torch.save(make(), folder / "weights.pt")
        return "weights.pt"

    return Refused(name, library, write, says)


def _folder(kind: str, config: str, says: str, **options: Any) -> Refused:
    """Return a folder of another model of transformers, given as backbone."""

    def write(folder: Path) -> str:
        getattr(transformers, kind.split()[0])(getattr(transformers, config)(**options)).save_pretrained(folder / "model")
        return "model"

    return Refused(kind, "transformers 5", write, says, as_backbone=True)


def _open_clip_name(name: str, says: str) -> Refused:
    return Refused(name, "open_clip", lambda folder: name, says, as_backbone=True)


def _adapter(name: str, config: Callable[[], peft.PeftConfig], says: str) -> Refused:
    def write(folder: Path) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft.get_peft_model(clip(), config()).save_pretrained(folder / "adapter")
        return "adapter"

    return Refused(name, "peft", write, says)


def _resnet() -> dict[str, Tensor]:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    text = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    return dict(open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).state_dict())


def _optimizer() -> dict[str, Any]:
    with torch.enable_grad():
        layer = nn.Linear(3, 3)
        adam = torch.optim.AdamW(layer.parameters())
        layer(torch.ones(3)).sum().backward()
        adam.step()
    return adam.state_dict()


def _unmerged() -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(peft.get_peft_model(clip(), peft.LoraConfig(r=2, target_modules=["q_proj"])).state_dict())


def _model_and_average() -> dict[str, Any]:
    other = FAMILIES["CLIPModel"].finetuned(0)
    return {"model": clip().state_dict(), "model_ema": other.state_dict()}


def _diverged() -> dict[str, Tensor]:
    state = dict(clip().state_dict())
    name = next(name for name in state if name.endswith("layers.1.mlp.fc1.weight") and "vision" in name)
    state[name] = state[name] * float("nan")
    return state


def _other_size() -> dict[str, Tensor]:
    sizes = {"hidden_size": 2 * WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    vision = transformers.CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH, projection_dim=DIM)
    return dict(transformers.CLIPVisionModelWithProjection(vision).state_dict())


def _distributed(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(clip().state_dict()), checkpoint_id=folder / "dcp", no_dist=True)
    return "dcp"


def _text_alone() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in clip().state_dict().items() if name.startswith("text_model")}


def _other_activation(folder: Path) -> str:
    model = clip()
    model.config.vision_config.hidden_act = "gelu"
    model.save_pretrained(folder / "task")
    return "task"


def _other_images(folder: Path) -> str:
    clip().save_pretrained(folder / "task")
    crop = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    transformers.CLIPImageProcessorPil(**crop, image_mean=[0.5] * 3).save_pretrained(folder / "task")
    return "task"


def _trainer_objects(folder: Path) -> str:
    """Write the file beside a Trainer's checkpoint that people name instead of the folder."""
    torch.save(argparse.Namespace(learning_rate=np.float64(1e-5)), folder / "training_args.bin")
    return "training_args.bin"


def _quantized(folder: Path) -> str:
    state = {name: tensor.to(torch.int8) for name, tensor in clip().state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return "model.safetensors"


def _diffusers(folder: Path) -> str:
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return "pipeline"


_SMALL = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 32}
REFUSED = (
    _state("CLIP with a ResNet", "open_clip", _resnet, r"whose image encoder is a ResNet; use a vision transformer"),
    _state("ConvNeXt", "timm", lambda: timm.create_model("test_convnext").state_dict(), r"ConvNeXt or Swin"),
    _state("ResNet", "timm", lambda: timm.create_model("test_resnet").state_dict(), r"looks like a ResNet"),
    _state("text tower alone", "transformers 5", _text_alone, r"text tower alone; name the whole model"),
    _state("optimizer", "torch", _optimizer, r"state of an optimizer; name the file of the model"),
    _state("linear head alone", "torch", lambda: nn.Linear(DIM, 3).state_dict(), r"head alone; name the file of the image"),
    _state("model and moving average in one file", "torch", _model_and_average, r"2 vision towers, under .*model_ema"),
    _state("diverged training", "torch", _diverged, r"are NaN or infinite; use a checkpoint from before"),
    _state("another width", "transformers 5", _other_size, r"looks like a tower of width 96.*but the backbone is"),
    _state("LoRA not merged", "peft", _unmerged, r"holds LoRA .*merge it into the weights first"),
    Refused("quantized to 8 bits", "safetensors", _quantized, r"I8.*use the checkpoint before quantization"),
    Refused("distributed checkpoint", "torch", _distributed, r"distributed checkpoint.*dcp_to_torch"),
    Refused("arguments of a training", "torch", _trainer_objects, r"holds no|no vision"),
    Refused("pipeline", "diffusers", _diffusers, r"pipeline of diffusers"),
    Refused("another activation", "transformers 5", _other_activation, r"activation gelu instead of quick_gelu"),
    Refused("images prepared otherwise", "transformers 5", _other_images, r"mean .*0\.5"),
    _adapter("LoHa", lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"]), r"LOHA.*merge_and_unload"),
    _adapter("LoKr", lambda: peft.LoKrConfig(r=2, target_modules=["q_proj"]), r"LOKR.*merge_and_unload"),
    _adapter("IA3", lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]), r"IA3.*merge_and_unload"),
    _adapter("VeRA", lambda: peft.VeraConfig(r=2, target_modules=["q_proj"]), r"VERA.*merge_and_unload"),
    _adapter("OFT", lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]), r"OFT.*merge_and_unload"),
    _adapter(
        "LoRA initialized by PiSSA",
        lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa"),
        r"took a part of the backbone into the adapter",
    ),
    _folder("DINOv3ViTModel", "DINOv3ViTConfig", r"dinov3_vit", **_SMALL),
    _folder("BeitModel", "BeitConfig", r"beit", **_SMALL),
    _folder("SwinModel", "SwinConfig", r"swin", image_size=32, embed_dim=24, depths=[1], num_heads=[3], window_size=4),
    _folder("ConvNextModel", "ConvNextConfig", r"convnext", hidden_sizes=[8, 8], depths=[1, 1], num_stages=2),
    _folder("Dinov2Model with SwiGLU", "Dinov2Config", r"swiglu", use_swiglu_ffn=True, **_SMALL),
    _folder("ResNetModel", "ResNetConfig", r"resnet", embedding_size=8, hidden_sizes=[8], depths=[1]),
    _open_clip_name("RN50", r"ResNets are not transformers"),
    _open_clip_name("convnext_base", r"convnext"),
    _open_clip_name("EVA02-B-16", r"rot|swiglu|SwiGLU|sub"),
    _open_clip_name("ViTamin-B", r"vitamin|ViTamin"),
    _open_clip_name("MobileCLIP-B", r"stem|hybrid|vit_base_mci"),
    _open_clip_name("PE-Core-B-16", r"rot|pe_core|PE-Core"),
    _open_clip_name("ViT-B-33", r"neither an open_clip name.*nearest names are"),
)
