"""What the product's own code needs to merge a task that a comparison hands over."""

from __future__ import annotations

from mingle_edge.comparison.method import ComparedTask, Workbench
from mingle_edge.gate_learning import Learner
from mingle_edge.progress import silent
from mingle_edge.settings import Settings


def task_learner(workbench: Workbench, task: ComparedTask, settings: Settings) -> Learner:
    """The learner that `mingle-edge merge` would use for this task."""
    return Learner(
        task=task.name,
        backbone=workbench.backbone,
        architecture=workbench.architecture,
        settings=settings,
        seeds=task.seeds,
        head=task.head,
        logit_scale=workbench.logit_scale,
        device=workbench.device,
        progress=silent,
    )
