"""Task arithmetic: the pretrained model plus the scaled sum of all task vectors.

Idea: a task vector, fine-tuned minus pretrained weights, adds its task's ability wherever it is added (arXiv 2212.04089).
Limitation: one scaling for all tasks, fixed beforehand although the sum grows with every task: too small for few tasks, too
large for many. Task vectors that overlap interfere.
"""

from __future__ import annotations

from mingle_edge.vision_tower import Parameters


def merge(merged: Parameters | None, task_vector: Parameters, count: int, scaling: float) -> Parameters:
    """m_t = m_{t-1} + scaling D_t, with m_0 = 0; nothing depends on `count`."""
    if merged is None:
        return {name: scaling * difference for name, difference in task_vector.items()}
    return {name: merged[name] + scaling * difference for name, difference in task_vector.items()}
