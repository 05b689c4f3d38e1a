"""Layer-wise AdaMerging (arXiv 2310.02575), taking one task after another.

Idea: add each parameter tensor of a task vector with a coefficient of its own, and learn the coefficients by making the
merged model's predictions on unlabeled images certain: entropy minimization, starting from task arithmetic at 0.3.
Limitation: certain is not right. A coefficient acts on all images alike, so conflicts between tasks stay; and where tasks
arrive one by one, the entropy is that of the newest task alone, so nothing speaks for the earlier ones.

`adamerging-published` is what the script behind the MINGLE paper does (zihuanqiu/MINGLE, `c_adamerging.py`): it wraps the
pretrained model anew for every task, with that task's vector alone. After task t the model is `theta_0 + c_t * D_t`; no
earlier task is in it. 50 Adam steps at 1e-4 move a coefficient by 0.005 at most.

`adamerging` corrects that one thing: task t continues from the merged model, `m_t = m_(t-1) + c_t * D_t`, with the earlier
tasks' coefficients as they were learned. It is still AdaMerging: the same parametrization, start, range and objective. The
original learns the coefficients of all tasks jointly from images of all tasks; of an earlier task no images are left, and
adjusting its coefficients to the newest task's entropy would only undo them. Memory does not grow with tasks.

Coefficients are kept in [0, 1] as in the script (FusionBench's own configuration does not bound them; at the published
learning rate the bounds are never met).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.entropy_minimization import minimize_entropy, seed_batches
from mingle_edge.comparison.methods.towers import OneTower
from mingle_edge.experts.finetuned_task import FinetunedTask


def add_scaled(merged: Parameters, task_vector: Parameters, coefficients: Tensor) -> dict[str, Tensor]:
    """Return `merged + c_i D_i` for each tensor i in the order of `task_vector`; `coefficients [tensors]` bounded to [0, 1]."""
    bounded = coefficients.clamp(0, 1)
    return {name: merged[name] + c * difference for c, (name, difference) in zip(bounded, task_vector.items(), strict=True)}


def learn_coefficients(
    workbench: Workbench,
    task: FinetunedTask,
    merged: Parameters,
    *,
    start: float,
    learning_rate: float,
    steps: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """Return the merged model with the task added, its coefficients learned on the task's seeds; `start` without any."""
    task_vector = {name: task.finetuned[name] - tensor for name, tensor in workbench.backbone.items()}
    coefficients = torch.full((len(task_vector),), start, device=workbench.device)

    def logits(images: Tensor) -> Tensor:
        parameters = add_scaled(merged, task_vector, coefficients)
        return task.head.logits(workbench.embed(images, parameters))

    minimize_entropy(logits, [coefficients], seed_batches(workbench, task, batch_size, steps), learning_rate)
    return add_scaled(merged, task_vector, coefficients)


class AdaMerging(OneTower):
    """One run over one order of tasks; `parameters` are the keyword arguments of `learn_coefficients`."""

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any], *, restarts: bool) -> None:
        super().__init__(workbench)
        self.parameters = parameters
        self.restarts = restarts  # from the pretrained model at each task, the published script's defect

    def add(self, task: FinetunedTask) -> None:
        """Learn the new task's coefficients and add it."""
        merged = self.workbench.backbone if self.restarts else self.tower
        self.tower = learn_coefficients(self.workbench, task, merged, **self.parameters)


continued = partial(AdaMerging, restarts=False)
as_published = partial(AdaMerging, restarts=True)
