"""Tiny CLIP checkpoints, images and task files, written by the libraries whose formats they are in. Shared by many tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

EMBED_DIM, IMAGE_SIZE, PATCH_SIZE, WIDTH, LAYERS, HEADS = 32, 32, 8, 48, 3, 3


def tiny_config() -> dict[str, Any]:
    """An open_clip model configuration: 17 tokens of width 48, three blocks, QuickGELU as in OpenAI's weights."""
    return {
        "embed_dim": EMBED_DIM,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "width": WIDTH,
            "layers": LAYERS,
            "head_width": WIDTH // HEADS,
        },
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }


def write_config(path: Path) -> None:
    """Write `tiny_config` as an open_clip JSON config."""
    path.write_text(json.dumps(tiny_config()))


@cache
def tiny_model(seed: int = 0) -> open_clip.CLIP:
    """The tiny model with random weights, biases and LayerNorms included, so that no parameter can be mixed up unseen."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**tiny_config()).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.startswith("visual.transformer"):
                parameter.mul_(1.5)
    return model


def write_open_clip(path: Path, seed: int = 0, *, visual_only: bool = False, prefix: str = "visual.") -> None:
    """Write the tiny model as `.safetensors` or, for any other suffix, with `torch.save`; its visual tower alone if asked."""
    state = tiny_model(seed).state_dict()
    if visual_only:
        state = {prefix + name.removeprefix("visual."): t for name, t in state.items() if name.startswith("visual.")}
    _save(state, path)


def write_task(path: Path, backbone_path: Path, seed: int, scale: float = 0.02, linear_rank: int | None = None) -> None:
    """Write the visual tower of `backbone_path` with a random difference on every parameter, as fine-tuning leaves it.

    With `linear_rank` the differences of linear weights (q, k, v each on its own) have at most that rank.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    state = {name: t for name, t in load_file(backbone_path).items() if name.startswith("visual.")}
    _save({name: t + scale * _difference(name, t, generator, linear_rank) for name, t in state.items()}, path)


def write_hugging_face(folder: Path, seed: int = 0, kind: str = "CLIPModel", *, prefix: bool | None = None) -> None:
    """Write a random tiny model of transformers' class `kind` (CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection).

    `prefix` renames the vision tower's keys by hand to those with (True) or without (False) a leading `vision_model.`, the
    layouts of transformers before and from version 5.
    """
    hugging_face_model(seed, kind).save_pretrained(folder)
    if prefix is not None:
        path = folder / "model.safetensors"
        bare = {name.removeprefix("vision_model."): t for name, t in load_file(path).items()}
        towers = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
        state = {("vision_model." if prefix and n.startswith(towers) else "") + n: t for n, t in bare.items()}
        save_file(state, path, metadata={"format": "pt"})


def hugging_face_model(seed: int = 0, kind: str = "CLIPModel") -> Any:
    """A random model of transformers' class `kind` of the tiny architecture, in evaluation mode."""
    import transformers

    tiny = tiny_config()
    text = tiny["text_cfg"]
    vision_config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=EMBED_DIM,
    )
    text_config = transformers.CLIPTextConfig(
        vocab_size=text["vocab_size"],
        hidden_size=text["width"],
        intermediate_size=4 * text["width"],
        num_hidden_layers=text["layers"],
        num_attention_heads=text["heads"],
        max_position_embeddings=text["context_length"],
        projection_dim=EMBED_DIM,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    whole = transformers.CLIPConfig(
        text_config=text_config.to_dict(), vision_config=vision_config.to_dict(), projection_dim=EMBED_DIM
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, kind)(whole if kind == "CLIPModel" else vision_config)
        for name, parameter in model.named_parameters():
            scale = 1.0 if "token_embedding" in name else 0.1
            parameter.data.add_(scale * torch.randn_like(parameter) * (parameter.ndim > 0))
    return model.eval().requires_grad_(False)


def write_images(folder: Path, count: int, seed: int, size: tuple[int, int] = (40, 36), variant: int = 0) -> None:
    """Write `count` smooth random RGB PNGs of `size` (width, height).

    All folders of one `seed` share mean colour and contrast; `variant` makes other images with the same statistics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    palette = np.random.default_rng(seed)
    base, contrast = palette.uniform(50, 205, size=3), palette.uniform(10, 60, size=3)
    rng = np.random.default_rng([seed, variant])
    for index in range(count):
        coarse = base + contrast * rng.standard_normal((5, 5, 3))
        image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")


def write_task_file(folder: Path, tasks: int = 3, *, tune: bool = False, **settings: Any) -> Path:
    """Write a complete runnable `TASKS.toml`: a backbone, and per task a checkpoint, six seeds, test images of 3 classes.

    With `tune`, validation images as well, and seeds by class, of which two are drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "model.json")
    write_open_clip(folder / "backbone.safetensors")
    lines = ["[backbone]", 'model = "model.json"', 'weights = "backbone.safetensors"', "", "[settings]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    for index in range(tasks):
        name, classes = f"task{index}", [f"{shape} {index}" for shape in ("circle", "square", "star")]
        write_task(folder / f"{name}.safetensors", folder / "backbone.safetensors", seed=index)
        write_images(folder / "seeds" / name, count=6, seed=index)
        for variant, label in enumerate(classes, start=1):
            write_images(folder / "test" / name / label, count=2, seed=index, variant=variant)
            if tune:
                write_images(folder / "tune" / name / label, count=2, seed=index, variant=10 + variant)
                write_images(folder / "pool" / name / label, count=3, seed=index, variant=20 + variant)
        lines += ["", "[[task]]", f'name = "{name}"', f'weights = "{name}.safetensors"', f'seeds = "seeds/{name}"']
        if tune:
            lines[-1:] = [f'seeds = "pool/{name}/<class>/*.png"', "seeds_per_class = 2", f'tune = "tune/{name}/<class>/*.png"']
        lines += [f"classes = {json.dumps(classes)}", f'test = "test/{name}/<class>/*.png"']
    path = folder / "TASKS.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def first_tasks(task_file: Path, count: int) -> Path:
    """Write the same task file with only its first tasks beside it."""
    path = task_file.with_name(f"first-{count}.toml")
    path.write_text("[[task]]".join(task_file.read_text().split("[[task]]")[: count + 1]))
    return path


def _difference(name: str, tensor: Tensor, generator: torch.Generator, rank: int | None) -> Tensor:
    linear = tensor.ndim == 4 or (tensor.ndim == 2 and not name.endswith("positional_embedding"))
    if rank is None or not linear:
        return torch.randn(tensor.shape, generator=generator)
    parts = 3 if name.endswith("in_proj_weight") else 1
    rows, columns = tensor.shape[0] // parts, tensor[0].numel()
    B = torch.randn((parts, rows, rank), generator=generator)
    A = torch.randn((parts, rank, columns), generator=generator)
    return (B @ A / rank**0.5).reshape(tensor.shape)


def _save(state: dict[str, Tensor], path: Path) -> None:
    state = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
