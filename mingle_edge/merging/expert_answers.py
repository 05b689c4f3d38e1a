"""What experts answer to a new task's seeds: the evidence that the router decides by, taken when the task is merged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mingle_edge.core.progress import Progress, silent
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.routing.statistics import kept_seeds
from mingle_edge.routing.wrong_experts import WrongExperts


@torch.inference_mode()
def run_wrong_experts(
    task: FinetunedTask,
    own: CompleteExpert,
    pretrained: PretrainedModel,
    older: Iterable[tuple[str, CompleteExpert]],
    progress: Progress = silent,
) -> WrongExperts:
    """Return how labels of at most 64 seeds of a task change without its expert, and under those of older tasks.

    Labels are those of the fine-tuned model under the task's own head.
    """
    images = task.calibration_images
    numbers = kept_seeds(len(images)).tolist()
    pixels = [batch.to(pretrained.device) for _, batch in images.batches(pretrained.architecture, numbers)]

    def logits(expert: CompleteExpert | None) -> Tensor:
        experts = [] if expert is None else [(1.0, expert)]
        parameters = expert_parameters(pretrained.backbone, experts)
        linear = expert_linear(parameters, experts)
        return torch.cat([task.head.logits(pretrained.embed(batch, parameters, linear)) for batch in pixels])

    teacher = torch.cat([task.head.logits(pretrained.embed(batch, task.finetuned)) for batch in pixels]).argmax(1)

    def changed(expert: CompleteExpert | None) -> float:
        return float((logits(expert).argmax(1) != teacher).double().mean())

    wrong: dict[str, float] = {}
    for name, expert in older:
        progress("wrong experts", len(wrong), len(wrong) + 1, name)
        wrong[name] = changed(expert)
    return WrongExperts(changed(None), wrong, tuple(logits(own).amax(1).tolist()))
