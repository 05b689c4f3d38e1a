"""Files and folders in which trainings leave a model, each written by the library that owns the format."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import lightning
import numpy as np
import peft
import torch
import transformers
from model_families import DIM, SIDE, perturbed
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]
LORA, RANK = "LoRA of q and v", 4
TOLERANCE = 1e-5
HALF, BFLOAT = 2e-3, 2e-2
"""What rounding the weights to half precision may change in an embedding."""


@dataclass(frozen=True)
class Container:
    """One way to store a model."""

    name: str
    library: str
    write: Callable[[nn.Module, Path], str]
    """Write the model below a folder that exists; return what the task file calls it, relative to that folder."""
    tolerance: float = TOLERANCE
    """Of embeddings; more only where the file holds fewer bits than the model."""
    adapt: Callable[[nn.Module], nn.Module] | None = None
    """What makes the trained model of the pretrained one, where that is not to change every parameter."""


def _file(name: str, suffix: str, content: Callable[[nn.Module], Any], library: str = "torch", **more: Any) -> Container:
    """Return a container of one file that torch writes."""

    def write(model: nn.Module, folder: Path) -> str:
        torch.save(content(model), folder / f"weights{suffix}")
        return f"weights{suffix}"

    return Container(name, library, write, **more)


def _renamed(state: Mapping[str, Tensor], prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


class Wrapped(nn.Module):
    """What task_vectors calls ImageEncoder: the whole model as a member called `model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Classifier(nn.Module):
    """What WiSE-FT calls ImageClassifier: an image encoder and the head it was trained with."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.image_encoder = Wrapped(model)
        self.classification_head = nn.Linear(DIM, 3)


class Training(lightning.LightningModule):
    """A training of Lightning with the model as a member."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.clip = model


def _lightning(model: nn.Module, folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_steps=0, logger=False, enable_checkpointing=False, barebones=False, accelerator="cpu")
        trainer.strategy.connect(Training(model))
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=True)
    return "last.ckpt"


def _averaged(model: nn.Module) -> State:
    return dict(torch.optim.swa_utils.AveragedModel(model).state_dict())


def _training_state(model: nn.Module) -> dict[str, Any]:
    """Return what open_clip's training writes after an epoch."""
    with torch.enable_grad():
        layer = nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(layer.parameters())
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    return {
        "epoch": 3,
        "name": "run",
        "state_dict": _renamed(model.state_dict(), "module."),
        "optimizer": optimizer.state_dict(),
    }


def _with_objects(model: nn.Module) -> dict[str, Any]:
    """Return a state dict beside what scripts put there, which needs code to be loaded."""
    return {"state_dict": model.state_dict(), "args": argparse.Namespace(lr=1e-5), "best": np.float64(0.5)}


def _scripted(model: Any, folder: Path) -> str:
    """Write a program of TorchScript that computes both embeddings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = {"forward": (torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 16, dtype=torch.int64))}
        torch.jit.trace_module(model, inputs, check_trace=False, strict=False).save(folder / "ViT.pt")
    return "ViT.pt"


def _safetensors(model: nn.Module, folder: Path) -> str:
    save_file(model.state_dict(), folder / "model.safetensors")
    return "model.safetensors"


def _legacy(model: nn.Module, folder: Path) -> str:
    torch.save(model.state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    return "old.pth"


def _accelerate(sharded: bool) -> Callable[[nn.Module, Path], str]:
    def write(model: nn.Module, folder: Path) -> str:
        size = "100KB" if sharded else "1GB"
        accelerate.Accelerator(cpu=True).save_model(model, folder / "accelerated", max_shard_size=size)
        return "accelerated"

    return write


def _accelerate_state(model: nn.Module, folder: Path) -> str:
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(model)
    accelerator.save_state(folder / "checkpoint-7")
    return "checkpoint-7"


def _open_clip_folder(model: nn.Module, folder: Path) -> str:
    """Write what open_clip.push_to_hf_hub uploads: configuration and weights in one folder."""
    (folder / "hub").mkdir()
    record = json.loads((folder.parent / "model.json").read_text())
    (folder / "hub" / "open_clip_config.json").write_text(json.dumps(record))
    save_file(model.state_dict(), folder / "hub" / "open_clip_model.safetensors")
    return "hub"


OPEN_CLIP = (
    Container("state dict, safetensors", "safetensors", _safetensors),
    _file("state dict, .pt", ".pt", lambda model: model.state_dict()),
    _file("state dict, no suffix", "", lambda model: model.state_dict()),
    Container("state dict, before PyTorch 1.6", "torch", _legacy),
    _file("state dict, half precision", ".pt", lambda model: model.half().state_dict(), tolerance=HALF),
    _file("state dict, bfloat16", ".pt", lambda model: model.bfloat16().state_dict(), tolerance=BFLOAT),
    _file("vision tower alone", ".pt", lambda model: model.visual.state_dict()),
    _file("training checkpoint of open_clip", ".pt", _training_state, library="open_clip"),
    _file("DataParallel", ".pt", lambda model: nn.DataParallel(model).state_dict()),
    _file("compiled model", ".pt", lambda model: torch.compile(model, backend="eager").state_dict()),
    _file("moving average", ".pt", _averaged),
    _file("model_state_dict", ".tar", lambda model: {"epoch": 1, "model_state_dict": model.state_dict(), "loss": 0.5}),
    _file(
        "nested: state dict in model in module", ".bin", lambda m: {"model": {"module": _renamed(m.state_dict(), "module.")}}
    ),
    _file("task_vectors' image encoder", ".pt", lambda model: Wrapped(model).state_dict(), library="task_vectors"),
    _file("WiSE-FT's image classifier", ".pt", lambda model: Classifier(model).state_dict(), library="WiSE-FT"),
    _file("model pickled whole", ".pt", lambda model: model),
    _file("task_vectors' image encoder, pickled whole", ".pt", Wrapped, library="task_vectors"),
    _file("arguments and numpy numbers beside it", ".pt", _with_objects),
    Container("TorchScript, as OpenAI's archives", "torch", _scripted),
    Container("Lightning", "lightning", _lightning),
    Container("accelerate, save_model", "accelerate", _accelerate(sharded=False)),
    Container("accelerate, sharded", "accelerate", _accelerate(sharded=True)),
    Container("accelerate, save_state", "accelerate", _accelerate_state),
    Container("open_clip folder", "open_clip", _open_clip_folder),
)


def _pretrained(**options: Any) -> Callable[[nn.Module, Path], str]:
    """Return a writer of transformers' folders."""

    def write(model: Any, folder: Path) -> str:
        model.save_pretrained(folder / "saved", **options)
        return "saved"

    return write


OLD_REQUESTS: list[dict[str, Any]] = []
"""What `write_old` is still to write: every start of the old version takes seconds, so all is written in one."""


def _by_transformers_4(**options: Any) -> Callable[[nn.Module, Path], str]:
    """Return a writer that has the last transformers before 5 read the model and write it again, once `write_old` is called."""

    def write(model: Any, folder: Path) -> str:
        model.save_pretrained(folder / "new")
        request = {
            "kind": type(model).__name__,
            "source": str(folder / "new"),
            "target": str(folder / "old"),
            "options": options,
        }
        OLD_REQUESTS.append(request)
        return "old"

    return write


def write_old() -> None:
    """Write what was asked of transformers 4."""
    code = (
        "import json, sys, transformers\n"
        "assert transformers.__version__.startswith('4.')\n"
        "for request in json.load(sys.stdin):\n"
        "    model = getattr(transformers, request['kind']).from_pretrained(request['source'])\n"
        "    model.save_pretrained(request['target'], **request['options'])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.environ["MINGLE_TRANSFORMERS_4"]}
    asked, OLD_REQUESTS[:] = json.dumps(OLD_REQUESTS), []
    subprocess.run([sys.executable, "-c", code], input=asked.encode(), check=True, capture_output=True, env=environment)


def _trainer(model: Any, folder: Path) -> str:
    """Write a checkpoint folder of transformers' Trainer after one step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(str(folder / "run"), report_to=[], use_cpu=True)
        trainer = transformers.Trainer(model, arguments)
        trainer.create_optimizer_and_scheduler(1)
        trainer._save_checkpoint(model, trial=None)
    return "run/checkpoint-0"


def _projection_left(model: Any) -> nn.Module:
    """Return a model that was trained under the backbone's projection, as one of vision alone is."""
    changed = perturbed(model, seed=99, scale=0.02)
    changed.visual_projection.weight.copy_(model.visual_projection.weight)
    return changed


def _part(kind: str) -> Callable[[nn.Module, Path], str]:
    """Return a writer of the vision tower as a model of its own."""

    def write(model: Any, folder: Path) -> str:
        config = transformers.CLIPVisionConfig(**model.config.vision_config.to_dict() | {"projection_dim": DIM})
        part = getattr(transformers, kind)(config)
        part.load_state_dict(_tower_state(model, part))
        part.save_pretrained(folder / "part")
        return "part"

    return write


def _tower_state(model: nn.Module, part: nn.Module) -> State:
    """Return the parameters of a part from the whole model, whichever of the two names the tower `vision_model`."""
    whole = {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
    return {name: whole[name.removeprefix("vision_model.")] for name in part.state_dict()}


def _peft(name: str, **options: Any) -> Container:
    """Return the adapter folder that PEFT writes, every value of the adapter random."""

    return Container(name, "peft", _write_adapter, adapt=lambda model: _adapted(model, **options))


def _adapted(model: nn.Module, **options: Any) -> nn.Module:
    """Return a model with an adapter in it, every value of which is random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: nn.Module = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=6, **options))
    generator = torch.Generator().manual_seed(1)
    for parameter_name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            scale = 0.5 if "magnitude" in parameter_name else 0.05
            parameter.data.add_(scale * torch.randn(parameter.shape, generator=generator))
    return adapted


def _write_adapter(model: Any, folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder / "adapter")
    return "adapter"


class AdaptedVision(nn.Module):
    """A vision tower alone with an adapter, under the projection of the whole model, as FusionBench's are trained."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        vision = transformers.CLIPVisionModel(model.config.vision_config)
        vision.load_state_dict(_tower_state(model, vision))
        self.vision = _adapted(vision, target_modules=["q_proj", "v_proj"])
        self.projection = model.visual_projection

    def get_image_features(self, pixels: Tensor) -> Tensor:
        """Return embeddings, not normalized."""
        embeds: Tensor = self.projection(self.vision(pixel_values=pixels).pooler_output)
        return embeds

    def save_pretrained(self, folder: Path) -> None:
        """Write the adapter."""
        self.vision.save_pretrained(folder)


PEFT = (
    _peft(LORA, target_modules=["q_proj", "v_proj"]),
    Container("LoRA of a vision tower alone", "peft", _write_adapter, adapt=AdaptedVision),
    _peft("LoRA of all linear layers", target_modules="all-linear"),
    _peft("rsLoRA", target_modules=["q_proj", "fc1"], use_rslora=True),
    _peft("DoRA", target_modules=["k_proj", "fc2"], use_dora=True),
    _peft("LoRA, patterns", target_modules=["q_proj", "fc1"], rank_pattern={"fc1": 7}, alpha_pattern={"fc1": 9}),
    _peft("LoRA, projection saved whole", target_modules=["v_proj"], modules_to_save=["visual_projection"]),
    _peft("LoRA with biases", target_modules=["out_proj"], bias="all"),
    _peft("LoRA of the patch embedding", target_modules=["patch_embedding"]),
)

HUGGING_FACE = (
    Container("save_pretrained", "transformers 5", _pretrained()),
    Container("save_pretrained, sharded", "transformers 5", _pretrained(max_shard_size="50KB")),
    Container("save_pretrained", "transformers 4", _by_transformers_4()),
    Container("pytorch_model.bin", "transformers 4", _by_transformers_4(safe_serialization=False)),
    Container(
        "pytorch_model.bin, sharded", "transformers 4", _by_transformers_4(safe_serialization=False, max_shard_size="50KB")
    ),
    Container("CLIPVisionModelWithProjection", "transformers 5", _part("CLIPVisionModelWithProjection")),
    Container("CLIPVisionModel", "transformers 5", _part("CLIPVisionModel"), adapt=_projection_left),
    Container("checkpoint of Trainer", "transformers 5", _trainer),
    *PEFT,
)
