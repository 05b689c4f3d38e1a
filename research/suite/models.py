"""The models of one pretraining seed: a tiny CLIP, and a copy of it fine-tuned on each task."""

from __future__ import annotations

import zlib
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file

from mingle_edge.core.progress import silent
from mingle_edge.demo import tiny_clip
from mingle_edge.demo.tasks import ImageTask
from mingle_edge.files.atomic_files import replacing
from research.suite.collection import Collection
from research.suite.images import read_training
from research.suite.recipe import is_made, making, recipe
from research.suite.scale import WIDTH, Scale

CONFIG_FILE, BACKBONE = "backbone.json", "backbone.safetensors"


def weights(task: ImageTask) -> str:
    """Return the name of the file of a fine-tuned model."""
    return f"{task.name}.safetensors"


def write_backbone(folder: Path, collection: Collection, seed: int, scale: Scale, device: torch.device) -> None:
    """Pretrain a model and write it with its architecture; nothing if it is there."""
    path, by = folder / BACKBONE, collection.backbone_recipe(seed, scale)
    if is_made(path, by):
        return
    images, subjects = collection.captioned(seed, scale)
    model = tiny_clip.new_model(seed, WIDTH)
    vocabulary = sorted({*subjects, *collection.vocabulary()})
    tiny_clip.train_text_tower(model, vocabulary, seed, silent, scale.text)
    model.visual.to(device)
    tiny_clip.pretrain(model, images, subjects, seed, silent, scale.pretraining)
    tiny_clip.save_config(folder / CONFIG_FILE, WIDTH)
    _save(model, path, by, visual_only=False)


def fine_tuned_recipe(collection: Collection, task: ImageTask, seed: int, data_seed: int, scale: Scale) -> str:
    """Return a hash of all that a fine-tuned model depends on."""
    sources = collection.images_recipe(task, data_seed, scale), collection.backbone_recipe(seed, scale)
    return recipe(task.prompts, scale.fine_tuning, *sources, tiny_clip)


def write_fine_tuned(
    folder: Path,
    collection: Collection,
    task: ImageTask,
    images: Path,
    seed: int,
    data_seed: int,
    scale: Scale,
    device: torch.device,
) -> None:
    """Fine-tune every parameter of the vision tower on the training images in the folder `images`; nothing if it is there."""
    path, by = folder / weights(task), fine_tuned_recipe(collection, task, seed, data_seed, scale)
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
