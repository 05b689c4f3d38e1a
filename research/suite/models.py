"""The models of one pretraining seed: a tiny CLIP, and a copy of it fine-tuned on each task."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file

from mingle_edge.core.progress import silent
from mingle_edge.demo import canvas, captions, outlines, tiny_clip
from mingle_edge.demo.canvas import Floats, blend, dark_and_light, luminance
from mingle_edge.demo.captions import Style, captioned_images, monochrome_print
from mingle_edge.demo.tasks import ImageTask
from mingle_edge.files.atomic_files import replacing
from research.suite.images import images_recipe, read_training
from research.suite.pictures import shapes
from research.suite.recipe import is_made, making, recipe
from research.suite.scale import Scale
from research.suite.tasks import TASKS

WIDTH = 128
CONFIG_FILE, BACKBONE = "backbone.json", "backbone.safetensors"
_OUTLINES = 0.3  # part of the captioned images of rendered tasks


def weights(task: ImageTask) -> str:
    """Return the name of the file of a fine-tuned model."""
    return f"{task.name}.safetensors"


def backbone_recipe(seed: int, scale: Scale) -> str:
    """Return a hash of all that the pretrained model depends on."""
    kinds = [(task.name, task.classes, task.subject) for task in TASKS]
    code = sorted({task.source for task in TASKS}, key=lambda module: module.__name__)
    lengths = (scale.captioned, scale.text, scale.pretraining)
    return recipe(WIDTH, _OUTLINES, seed, lengths, kinds, *code, canvas, outlines, shapes, captions, tiny_clip)


def write_backbone(folder: Path, seed: int, scale: Scale, device: torch.device) -> None:
    """Pretrain a model and write it with its architecture; nothing if it is there."""
    path, by = folder / BACKBONE, backbone_recipe(seed, scale)
    if is_made(path, by):
        return
    kinds, stream = (*TASKS, None), "suite/captions"
    images, subjects = captioned_images(kinds, seed, scale.captioned, stream=stream, choose_style=_choose_style)
    model = tiny_clip.new_model(seed, WIDTH)
    vocabulary = sorted({*subjects, *(subject for task in TASKS for subject in task.subjects)})
    tiny_clip.train_text_tower(model, vocabulary, seed, silent, scale.text)
    model.visual.to(device)
    tiny_clip.pretrain(model, images, subjects, seed, silent, scale.pretraining)
    tiny_clip.save_config(folder / CONFIG_FILE, WIDTH)
    _save(model, path, by, visual_only=False)


def outline(rng: np.random.Generator, image: Floats) -> Floats:
    """Draw the edges of an image alone: dark on light, or light on dark."""
    edges = np.hypot(*np.gradient(luminance(image)))
    colors = dark_and_light(rng)
    low, high = colors if rng.uniform() < 0.5 else colors[::-1]
    return blend(np.clip(edges / (np.quantile(edges, 0.97) + 1e-3), 0, 1), low, high)


def _choose_style(rng: np.random.Generator) -> Style:
    return outline if rng.uniform() < _OUTLINES else monochrome_print


def fine_tuned_recipe(task: ImageTask, seed: int, data_seed: int, scale: Scale) -> str:
    """Return a hash of all that a fine-tuned model depends on."""
    sources = images_recipe(task, data_seed, scale), backbone_recipe(seed, scale)
    return recipe(task.prompts, scale.fine_tuning, *sources, tiny_clip)


def write_fine_tuned(
    folder: Path, task: ImageTask, images: Path, seed: int, data_seed: int, scale: Scale, device: torch.device
) -> None:
    """Fine-tune every parameter of the vision tower on the training images in the folder `images`; nothing if it is there."""
    path, by = folder / weights(task), fine_tuned_recipe(task, seed, data_seed, scale)
    if is_made(path, by):
        return
    split, model = read_training(images), tiny_clip.new_model(0, WIDTH)
    model.load_state_dict(load_file(folder / BACKBONE))
    model.visual.to(device)
    own_seed = zlib.crc32(f"{seed}/{task.name}".encode())
    tiny_clip.fine_tune(model, split.images, split.labels, task.prompts, own_seed, silent, scale.fine_tuning)
    _save(model, path, by, visual_only=True)


def _save(model: open_clip.CLIP, path: Path, by: str, *, visual_only: bool) -> None:
    with making(path, by) as made, replacing(made) as written:  # the latter with the mode that the umask gives
        tiny_clip.save(model.cpu(), written, visual_only=visual_only)
