"""TIES-Merging in continual form: trim to the largest entries, elect a sign, add what agrees with it.

Idea: small changes are noise and opposite changes cancel, so only the largest share of each vector is kept and, in each
entry, only the values of the sign that weighs more (arXiv 2306.01708). Limitation: the trimmed share is one number for all
layers, and continually the earlier tasks are one vector that is trimmed again with each task: what no later task touches
fades out. Scaling is as for task arithmetic.

As the MINGLE paper ran it (zihuanqiu/MINGLE, `ties_merging.py`), the result of each election is *added to* the merged vector
that already took part in it: earlier tasks count twice, and the new one at full size beside a merged vector that is
scaled. `merge_as_published` is that. `merge` puts the election's result in the merged vector's place and weighs both sides
alike; the first task is the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters


def merge(merged: Parameters | None, task_vector: Parameters, count: int, scaling: float, keep: float) -> Parameters:
    """Return m_1 = scaling D_1, then m_t = TIES(m_{t-1}, scaling D_t); `keep` is the share of entries that survive trimming."""
    scaled = {name: scaling * difference for name, difference in task_vector.items()}
    return scaled if merged is None else elect_and_sum(merged, scaled, keep)


def merge_as_published(
    merged: Parameters | None, task_vector: Parameters, count: int, scaling: float, keep: float
) -> Parameters:
    """Return m_1 = scaling D_1, then m_t = m_{t-1} + scaling TIES(m_{t-1}, D_t)."""
    if merged is None:
        return {name: scaling * difference for name, difference in task_vector.items()}
    elected = elect_and_sum(merged, task_vector, keep)
    return {name: merged[name] + scaling * value for name, value in elected.items()}


def elect_and_sum(first: Parameters, second: Parameters, keep: float) -> Parameters:
    """Trim two vectors to their largest entries, and in each entry sum those of the elected sign: TIES.

    The sign of an entry is that of the sum of its trimmed values; where they cancel exactly, the sign most entries have.
    """
    # What is zero in both was never fine-tuned, a vision-only checkpoint's projection for one, and is no part of the vectors.
    tuned = [name for name in second if torch.count_nonzero(first[name]) or torch.count_nonzero(second[name])]
    bounds = [smallest_kept([vector[name] for name in tuned], keep) for vector in (first, second)]

    def trimmed(name: str) -> tuple[Tensor, Tensor]:
        a, b = (torch.where(v.abs() >= bound, v, 0) for v, bound in zip((first[name], second[name]), bounds, strict=True))
        return a, b

    majority = sum(int(torch.sign(torch.add(*trimmed(name))).sum(dtype=torch.int64)) for name in second)
    result = {}
    for name in second:
        a, b = trimmed(name)
        total = a + b
        positive = (total > 0) | (total == 0) if majority > 0 else total > 0
        result[name] = torch.where(positive, a.clamp_min(0) + b.clamp_min(0), a.clamp_max(0) + b.clamp_max(0))
    return result


def smallest_kept(tensors: Sequence[Tensor], keep: float) -> float:
    """Return the magnitude from which an entry is among the largest share `keep` of all entries together; 0 where there are
    none.

    As in the code of TIES, it is the (d - floor(keep d))-th smallest of d, and entries equal to it are kept. An order
    statistic: the order of the tensors cannot change it.
    """
    if not tensors:
        return 0.0
    magnitudes = torch.empty(sum(value.numel() for value in tensors), dtype=tensors[0].dtype)
    start = 0
    for value in tensors:
        torch.abs(value.flatten().cpu(), out=magnitudes[start : start + value.numel()])
        start += value.numel()
    place = max(len(magnitudes) - int(len(magnitudes) * keep), 1) - 1
    # In place, in NumPy: `torch.kthvalue` would copy all of it and as many 8-byte indices.
    ordered = magnitudes.numpy()
    ordered.partition(place)
    return float(ordered[place])
