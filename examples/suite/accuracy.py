"""How well the pretrained and the individual models do on one part of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import BACKBONE, load_model, prompts, weights
from tasks import GROUPS, TASKS, SuiteTask

from mingle_edge.demo import tiny_clip
from mingle_edge_runtime.image_file import read_image


@dataclass(frozen=True)
class Accuracy:
    """Percent right on one task: of the pretrained model, and of the task's own."""

    pretrained: float
    individual: float


def measure(folder: Path, images: Path, part: str) -> dict[str, Accuracy]:
    """For every task, with the models in `folder` and the images in `images/<task>/<part>`."""
    backbone = load_model(folder / BACKBONE)
    found = {}
    for task in TASKS:
        pixels, labels = _read(images / task.name / part, task)
        own = load_model(folder / BACKBONE, folder / weights(task))
        found[task.name] = Accuracy(_percent(backbone, task, pixels, labels), _percent(own, task, pixels, labels))
    return found


def table(by_seed: dict[int, dict[str, Accuracy]]) -> list[str]:
    """Lines of a Markdown table: mean accuracy per group of tasks and pretraining seed, then per task over the seeds."""
    lines = ["| seed | tasks | pretrained | individual |", "|---|---|---|---|"]
    for seed, found in by_seed.items():
        for group in GROUPS:
            rows = [found[task.name] for task in TASKS[:group]]
            lines.append(f"| {seed} | {group} | {_mean(rows, 'pretrained')} | {_mean(rows, 'individual')} |")
    lines += ["", "| task | pretrained | individual |", "|---|---|---|"]
    for task in TASKS:
        rows = [found[task.name] for found in by_seed.values()]
        lines.append(f"| {task.name} | {_mean(rows, 'pretrained')} | {_mean(rows, 'individual')} |")
    return lines


def _mean(rows: list[Accuracy], which: str) -> str:
    return f"{np.mean([getattr(row, which) for row in rows]):.1f}"


def _read(folder: Path, task: SuiteTask) -> tuple[torch.Tensor, torch.Tensor]:
    """All images `[n, 3, SIDE, SIDE]` of a part, and their class numbers `[n]`."""
    images, labels = [], []
    for label, name in enumerate(task.classes):
        for path in sorted((folder / name).glob("*.png")):
            images.append(np.asarray(read_image(path)))
            labels.append(label)
    return tiny_clip.to_pixels(np.stack(images)), torch.tensor(labels)


@torch.inference_mode()
def _percent(model: Any, task: SuiteTask, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    head = tiny_clip.text_embeddings(model, prompts(task))
    answers = (model.encode_image(pixels, normalize=True) @ head.T).argmax(-1)
    return 100 * (answers == labels).double().mean().item()
