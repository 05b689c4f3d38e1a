"""Ways to damage the inputs of a merge, each of them a fault that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tiny_clip import EMBED_DIM, WIDTH, write_hugging_face

RANK = 8  # of the task file's settings
Arrays = dict[str, NDArray[Any]]


def change(task_file: Path, old: str, new: str) -> None:
    text = task_file.read_text()
    assert old in text
    task_file.write_text(text.replace(old, new))


def change_weights(path: Path, function: Callable[[Arrays], None]) -> None:
    state = load_file(path)
    function(state)
    save_file(state, path)


def not_a_number(folder: Path) -> None:
    change_weights(folder / "task0.safetensors", lambda state: state["visual.proj"].__setitem__((0, 0), np.nan))


def missing_tensor(folder: Path) -> None:
    change_weights(folder / "task1.safetensors", lambda state: state.pop("visual.ln_post.bias"))


def other_shape(folder: Path) -> None:
    change_weights(folder / "task1.safetensors", lambda state: state.update({"visual.proj": np.ones((WIDTH, 7), np.float32)}))


def integers(folder: Path) -> None:
    change_weights(
        folder / "task2.safetensors", lambda state: state.update({"visual.proj": np.ones((WIDTH, EMBED_DIM), np.int8)})
    )


def damaged(folder: Path) -> None:
    (folder / "task2.safetensors").write_bytes(b"no weights at all")


def broken_image(folder: Path) -> None:
    for path in (folder / "pool" / "task1").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])


def too_few_images(folder: Path) -> None:
    change(folder / "TASKS.toml", "seeds_per_class = 2", "seeds_per_class = 4")


def other_head(folder: Path) -> None:
    save_file({"weight": np.eye(4, EMBED_DIM, dtype=np.float32)}, folder / "head.safetensors")
    change(folder / "TASKS.toml", 'name = "task2"', 'name = "task2"\nhead = "head.safetensors"')


def other_class(folder: Path) -> None:
    change(folder / "TASKS.toml", '"star 0"', '"comet 0"')


def no_setting(folder: Path) -> None:
    change(folder / "TASKS.toml", f"rank = {RANK}", f"rank = {RANK}\nranks = 3")


def too_deep_a_router(folder: Path) -> None:
    change(folder / "TASKS.toml", f"rank = {RANK}", f"rank = {RANK}\nrouter_blocks = 9")


def other_activation(folder: Path) -> None:
    write_hugging_face(folder / "folder", kind="CLIPVisionModelWithProjection")
    config = json.loads((folder / "folder" / "config.json").read_text())
    (folder / "folder" / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    change(folder / "TASKS.toml", '"task0.safetensors"', '"folder"')


def broken_backbone(folder: Path) -> None:
    change_weights(folder / "backbone.safetensors", lambda state: state["visual.proj"].__setitem__((0, 0), np.inf))


def missing_weights(folder: Path) -> None:
    change(folder / "TASKS.toml", '"task1.safetensors"', '"nowhere.safetensors"')


def no_name(folder: Path) -> None:
    change(folder / "TASKS.toml", 'name = "task1"\n', "")


def same_name(folder: Path) -> None:
    change(folder / "TASKS.toml", 'name = "task1"', 'name = "TASK0"')


def both_head_and_templates(folder: Path) -> None:
    save_file({"weight": np.eye(3, EMBED_DIM, dtype=np.float32)}, folder / "ready.safetensors")
    change(folder / "TASKS.toml", 'name = "task2"', 'name = "task2"\nhead = "ready.safetensors"\ntemplates = ["a {}"]')


def no_toml(folder: Path) -> None:
    change(folder / "TASKS.toml", "[backbone]", "[backbone")


def one_character_too_many(folder: Path) -> None:
    change(folder / "TASKS.toml", '"star 0"', '"star 0", "\\u0000"')


DAMAGES = [
    *(not_a_number, missing_tensor, other_shape, integers, damaged, broken_image, too_few_images, other_head, other_class),
    *(no_setting, too_deep_a_router, other_activation, broken_backbone, missing_weights, no_name, same_name),
    *(both_head_and_templates, no_toml, one_character_too_many),
]
SEVERAL = (no_setting, too_deep_a_router, not_a_number, broken_image, missing_tensor, other_head, damaged)
"""Of one task file, all at once."""
