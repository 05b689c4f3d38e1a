"""MagMax: in each entry the largest change any task made.

Idea: large changes matter and small ones are noise, so each entry of the merged vector is the task vector's of largest
magnitude, scaled (arXiv 2407.06322). Limitation: neighbouring entries of one layer come from different tasks, so no
task's layer is there as a whole, and with more tasks ever less of each. The authors fine-tune each task from the last one;
merging models fine-tuned independently is their ablation and what is done here.
"""

from __future__ import annotations

import torch

from mingle_edge.vision_tower import Parameters


def merge(merged: Parameters | None, task_vector: Parameters, count: int, scaling: float) -> Parameters:
    """m_t = the larger in magnitude of m_{t-1} and scaling D_t, entry by entry, the newer where they are equal; m_0 = 0."""
    scaled = {name: scaling * difference for name, difference in task_vector.items()}
    if merged is None:
        return scaled
    return {name: torch.where(new.abs() >= merged[name].abs(), new, merged[name]) for name, new in scaled.items()}
