"""What the tests of adapted and sized experts share: settings, towers multiplied out, embeddings of images no seed shows."""

from __future__ import annotations

import torch

from mingle_edge.data.images import load_images
from mingle_edge.data.settings import Settings
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.merging.task_merging import complete_expert

SETTINGS = Settings(rank=3, expert_steps=40, expert_learning_rate=2e-3)


def truncated(loaded, settings=SETTINGS) -> CompleteExpert:
    pretrained, task = loaded
    return complete_expert(task, pretrained, settings)[0]


def weights(expert: CompleteExpert, pretrained):
    """The tower of an expert, multiplied out."""
    moved = {f"{layer}.weight": pretrained.backbone[f"{layer}.weight"] + B @ A for layer, (B, A) in expert.factors.items()}
    return {**pretrained.backbone, **expert.unfactored, **moved}


def embeddings(loaded, folder, parameters):
    pretrained, _ = loaded
    paths = sorted((folder / "unseen").iterdir())
    with torch.no_grad():
        return pretrained.embed(load_images(paths, pretrained.architecture), parameters)
