"""What a merge is compared with: the pretrained model, each task's own fine-tuned model, and their average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.checkpoints import open_checkpoint
from mingle_edge.evaluation import EvaluationReport, LabelledSet, load_test_sets
from mingle_edge.images import load_images
from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress
from mingle_edge.protocols import PROTOCOLS, predict_among, predict_within
from mingle_edge.task_file import read_task_file
from mingle_edge.vision_tower import embed_images

Tower = Mapping[str, Tensor]
State = Callable[[int, int], Tower]
"""(task of the images, tasks merged so far) -> parameters of the tower that answers"""


def evaluate_baselines(merged: Path, task_file: Path, progress: Progress) -> dict[str, EvaluationReport]:
    """`pretrained`, `individual` and `average` on the test images of a task file, with the heads of its merged model.

    Each is one model without routes, so P1 and P2 coincide, and in P3 all labels share one softmax. `individual` answers for
    each image with the model of the image's task, in P3 too. `average` after t tasks is the mean of the first t models.
    """
    model, base, tasks = MergedModel.open(merged), task_file.parent, read_task_file(task_file)
    sources = {task.name: task.weights for task in tasks.tasks}
    towers = [
        dict(open_checkpoint(sources[name], base=base, architecture=model.architecture).tensors()) for name in model.task_names
    ]
    pretrained = {name: torch.from_numpy(array) for name, array in model.backbone().items()}
    means = [{n: torch.stack([t[n] for t in towers[: i + 1]]).mean(0) for n in pretrained} for i in range(len(towers))]
    states: dict[str, State] = {
        "pretrained": lambda task, count: pretrained,
        "individual": lambda task, count: towers[task],
        "average": lambda task, count: means[count - 1],
    }
    sets = load_test_sets(model, task_file)
    images = [load_images(tests.paths, model.architecture) for tests in sets]
    reports = {}
    for number, (name, state) in enumerate(states.items()):
        progress("baselines", number, len(states), name)
        reports[name] = _evaluate(model, sets, images, state)
    progress("baselines", len(states), len(states))
    return reports


@torch.inference_mode()
def _evaluate(model: MergedModel, sets: list[LabelledSet], images: list[Tensor], state: State) -> EvaluationReport:
    heads = [torch.from_numpy(model.head(name)) for name in model.task_names]
    after_own: dict[str, list[float]] = {protocol: [] for protocol in PROTOCOLS}
    final: dict[str, list[float]] = {protocol: [] for protocol in PROTOCOLS}
    for task, tests in enumerate(sets):
        for count, accuracies in ((task + 1, after_own), (len(sets), final)):
            embeds = F.normalize(embed_images(images[task], state(task, count), model.architecture), dim=-1)  # [n, dim]
            within = predict_within(embeds, heads[task]) == tests.labels
            owner, label = predict_among(embeds, heads[:count], model.logit_scale)
            for protocol, correct in zip(PROTOCOLS, (within, within, (owner == task) & (label == tests.labels)), strict=True):
                accuracies[protocol].append(100 * correct.double().mean().item())
    return EvaluationReport(model.task_names, after_own, final, [len(tests.paths) for tests in sets])
