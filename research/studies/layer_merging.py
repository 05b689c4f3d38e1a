"""The layer scope in memory, by the library's own functions: for studies that merge the same few tasks in many ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.experts.task_vectors import Factors, build_expert
from mingle_edge.gates.gate_training import GateLearner
from mingle_edge.gates.gating import GatedExperts, GatedLinear
from research.studies.study import Bools, Study, in_batches

Layers = dict[str, GatedExperts]
MakeLearner = Callable[..., GateLearner]


def merge_layers(
    study: Study,
    numbers: Sequence[int],
    seeds: Sequence[ImageSet],
    settings: Settings,
    learner: MakeLearner = GateLearner,
) -> list[Layers]:
    """Return the gated experts of every layer after each of the tasks with these numbers, each adapted on its own seeds."""
    carrying = settings.carrying()
    names = [layer for layer in study.architecture.block_linears() if layer.rsplit(".", 1)[-1] in carrying]
    layers: Layers = {}
    basis: dict[str, Tensor] = {}
    states = []
    for number, own_seeds in zip(numbers, seeds, strict=True):
        task = study.tasks[number]
        learning = learner(
            task=FinetunedTask(task.name, task.finetuned, task.head, own_seeds),
            pretrained=PretrainedModel(study.backbone, study.architecture, study.logit_scale, torch.device("cpu")),
            settings=settings,
        )
        experts: dict[str, Factors] = {}
        for layer in names:
            earlier: list[Factors] = []
            if layers and settings.interference_projection:
                earlier = list(zip(layers[layer].experts.B, layers[layer].experts.A, strict=True))
            difference = task.finetuned[f"{layer}.weight"] - study.backbone[f"{layer}.weight"]
            experts[layer] = build_expert(difference, settings.rank, earlier)
        teacher = learning.teacher_logits().clone()
        _, layers, _ = learning.learn(experts, layers, basis, teacher)
        added = {layer: new.clone() for layer, new in learning.protect(layers, basis).items()}  # no inference tensors
        basis = {layer: torch.cat([basis[layer], new]) if layer in basis else new for layer, new in added.items()}
        states.append(layers)
    return states


@torch.inference_mode()
def right_in_layers(study: Study, layers: Layers, number: int, part: str, top_k: int | None = None) -> Bools:
    """Return whether each image of a task `[n]` is right under its own head, routed in every layer (P1)."""
    linear = GatedLinear(study.backbone, layers, top_k)
    head = study.tasks[number].head
    answers = []
    for images in in_batches(study.images(number, part)):
        embeds = F.normalize(embed_images(images, study.backbone, study.architecture, linear), dim=-1)
        answers.append((embeds @ head.T).argmax(1))
    return np.asarray(torch.cat(answers).numpy() == study.tasks[number].labels(part))
