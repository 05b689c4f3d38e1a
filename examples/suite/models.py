"""The models of one pretraining seed: a tiny CLIP, and a copy of it fine-tuned on each task."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import captions
import torch
from captions import all_subjects, captioned_images
from pictures import shapes
from recipe import is_made, making, recipe
from safetensors.torch import load_file
from scale import Scale
from splits import images_recipe, read_training
from tasks import TASKS, SuiteTask, task_named

from mingle_edge.demo import canvas, pretraining, tiny_clip
from mingle_edge.demo.canvas import SIDE
from mingle_edge.durable import replacing
from mingle_edge.progress import silent

WIDTH = 128
CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": WIDTH, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
CONFIG_FILE, BACKBONE = "backbone.json", "backbone.safetensors"


def weights(task: SuiteTask) -> str:
    """Name of the file of a fine-tuned model."""
    return f"{task.name}.safetensors"


def prompts(task: SuiteTask) -> list[str]:
    """A prompt for each class."""
    return [task.template.format(name) for name in task.classes]


def backbone_recipe(seed: int, scale: Scale) -> str:
    """What the pretrained model depends on."""
    kinds = [(task.name, task.classes, task.subject) for task in TASKS]
    code = sorted({task.source for task in TASKS}, key=lambda module: module.__name__)
    lengths = (scale.captioned, scale.text, scale.pretraining)
    return recipe(CONFIG, seed, lengths, kinds, *code, canvas, shapes, pretraining, captions, tiny_clip)


def write_backbone(folder: Path, seed: int, scale: Scale, device: torch.device) -> None:
    """Pretrain a model and write it with its architecture; nothing if it is there."""
    path, by = folder / BACKBONE, backbone_recipe(seed, scale)
    if is_made(path, by):
        return
    images, subjects = captioned_images(seed, scale.captioned)
    model = tiny_clip.new_model(seed, CONFIG)
    tiny_clip.train_text_tower(model, sorted({*subjects, *all_subjects()}), seed, silent, scale.text)
    model.visual.to(device)
    tiny_clip.pretrain(model, images, subjects, seed, silent, scale.pretraining)
    tiny_clip.save_config(folder / CONFIG_FILE, CONFIG)
    _save(model, path, by, visual_only=False)


def fine_tuned_recipe(task: SuiteTask, seed: int, data_seed: int, scale: Scale) -> str:
    """What a fine-tuned model depends on."""
    sources = images_recipe(task, data_seed, scale), backbone_recipe(seed, scale)
    return recipe(prompts(task), scale.fine_tuning, *sources, tiny_clip)


def write_fine_tuned(
    folder: Path, name: str, images: Path, seed: int, data_seed: int, scale: Scale, device: torch.device
) -> None:
    """Fine-tune every parameter of the vision tower on the training images in the folder `images`; nothing if it is there."""
    task = task_named(name)
    path, by = folder / weights(task), fine_tuned_recipe(task, seed, data_seed, scale)
    if is_made(path, by):
        return
    split, model = read_training(images), load_model(folder / BACKBONE)
    model.visual.to(device)
    own_seed = zlib.crc32(f"{seed}/{task.name}".encode())
    tiny_clip.fine_tune(model, split.images, split.labels, prompts(task), own_seed, silent, scale.fine_tuning)
    _save(model, path, by, visual_only=True)


def load_model(*paths: Path) -> Any:
    """An open_clip model with the state of the first file and, for what they hold, of the later ones."""
    model = tiny_clip.new_model(0, CONFIG)
    for path in paths:
        missing, unexpected = model.load_state_dict(load_file(path), strict=False)
        assert not unexpected
        assert path != paths[0] or not missing
    return model


def _save(model: Any, path: Path, by: str, *, visual_only: bool) -> None:
    with making(path, by) as made, replacing(made) as written:  # the latter with the mode that the umask gives
        tiny_clip.save(model.cpu(), written, visual_only=visual_only)
