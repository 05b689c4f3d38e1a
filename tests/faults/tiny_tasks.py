"""The smallest inputs that can be merged and exported: one block of width 16, two tasks with ready-made heads."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from tiny_clip import first_tasks, write_images

TASKS = ("first", "second")
_CONFIG = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
}
_HEAD = '[backbone]\nmodel = "model.json"\nweights = "backbone.safetensors"\n[settings]\nrank = 2\nrouter_augmentations = 1\n'


def write_tasks(folder: Path) -> tuple[Path, Path]:
    """Write all that a merge needs. Returns a task file of the first task, and one of both."""
    generator = torch.Generator().manual_seed(0)
    (folder / "model.json").write_text(json.dumps(_CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**_CONFIG)
    tower = {name: t.detach().contiguous() for name, t in model.state_dict().items() if name.startswith("visual.")}
    save_file(tower, folder / "backbone.safetensors")
    tables = []
    for number, task in enumerate(TASKS):
        changed = {name: t + 0.02 * torch.randn(t.shape, generator=generator) for name, t in tower.items()}
        save_file(changed, folder / f"{task}.safetensors")
        save_file({"embeddings": torch.randn((2, 8), generator=generator)}, folder / f"{task}-head.safetensors")
        write_images(folder / "seeds" / task, count=2, seed=number, size=(16, 16))
        tables.append(
            f'[[task]]\nname = "{task}"\nweights = "{task}.safetensors"\nseeds = "seeds/{task}"\nclasses = ["one", "two"]\n'
            f'head = "{task}-head.safetensors"\n'
        )
    (folder / "both.toml").write_text(_HEAD + "".join(tables))
    return first_tasks(folder / "both.toml", 1), folder / "both.toml"
