"""OPCM: each task vector is projected out of the leading directions of the merged one, and the sum keeps its norm.

Idea: what the merged weights of a linear layer do most strongly is protected, and the distance to the pretrained model stays
that of a fine-tuned one however many tasks are merged (arXiv 2501.09522). Limitation: one set of weights; what a task needs
in the protected directions is lost, and rescaling shrinks every task a little more with each one that follows.

With m = sum of s_i u_i v_i' for a linear weight and a the number of leading singular values whose cumulative share of
their sum does not exceed `share`, a task vector D loses the entries i, j < a of U' D V, and its diagonal.

As the MINGLE paper ran it (zihuanqiu/MINGLE, `opcm.py`, after an early FusionBench) two things differ. The diagonal is
zeroed on a copy, which does nothing; later FusionBench zeroes it, and documents that. And the class token belongs to no leaf
module of the network, so the script merges the first task's and no other. `as_published` is that. Otherwise the
diagonal is zeroed, and the class token merged like every other vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters

PRESENT = 1e-6
"""Singular values below this share of the largest are rounding of float32: the matrix does not have that direction."""


@dataclass(frozen=True)
class Projected:
    """What is kept of the tasks so far."""

    merged: Parameters
    divisor: float  # lambda_t: the sum of projected task vectors is lambda_t times `merged`


def merge(
    memory: Projected | None, task_vector: Parameters, count: int, share: float, *, as_published: bool = False
) -> Projected:
    """Return m_t = (lambda_{t-1} m_{t-1} + P(D_t)) / lambda_t, with lambda_t such that ||m_t|| is the mean of ||D_1||..||D_t||.

    P projects linear weights and leaves all else as it is. That mean follows from ||m_{t-1}||, but lambda does not. As
    published the diagonal stays, and the class token is the first task's, divided by every lambda since.
    """
    if memory is None:
        return Projected(dict(task_vector), 1.0)
    total = {}
    for name, difference in task_vector.items():
        before = memory.merged[name]
        if as_published and name == "class_token":
            total[name] = before
            continue
        if is_projected(name):
            difference = project_out(difference, before, share, diagonal=not as_published)
        total[name] = memory.divisor * before + difference
    mean = (norm(memory.merged) * (count - 1) + norm(task_vector)) / count
    divisor = norm(total) / mean if mean > 0 else 1.0
    shrink = 1 / divisor if divisor > 0 else 0.0
    return Projected({name: value * shrink for name, value in total.items()}, divisor)


def is_projected(name: str) -> bool:
    """Say whether a parameter is the weight of a linear layer; the patch embedding is a convolution in the authors' network."""
    return name == "projection.weight" or (name.startswith("blocks.") and name.endswith(".weight") and ".ln_" not in name)


def project_out(task_vector: Tensor, merged: Tensor, share: float, *, diagonal: bool) -> Tensor:
    """Return the task vector `[d_out, d_in]` without its block in the leading directions of `merged [d_out, d_in]`.

    With `diagonal`, also without its component along every u_i v_i'. In float64, from eigenvectors of the Gram matrix of
    the smaller side: what is removed lies in directions that `merged` has, so no full SVD is needed.
    """
    if task_vector.shape[0] > task_vector.shape[1]:
        turned_back: Tensor = project_out(task_vector.T, merged.T, share, diagonal=diagonal).T
        return turned_back.contiguous()
    M, D = merged.double(), task_vector.double()
    eigenvalues, eigenvectors = torch.linalg.eigh(M @ M.T)  # ascending
    singular = eigenvalues.flip(0).clamp_min(0).sqrt()  # [d_out]
    if singular[0] == 0:
        return task_vector
    beyond = singular.cumsum(0) > share * singular.sum()
    leading = int(beyond.int().argmax())
    present = int(torch.count_nonzero(singular > PRESENT * singular[0])) if diagonal else leading
    Ut = eigenvectors.flip(1)[:, :present].T  # [p, d_out]
    Vt = (Ut @ M) / singular[:present, None]  # [p, d_in]
    turned = Ut @ D  # [p, d_in]
    removed = (turned * Vt).sum(1, keepdim=True) * Vt if diagonal else torch.zeros_like(Vt)  # [p, d_in]
    removed[:leading] = turned[:leading] @ Vt[:leading].T @ Vt[:leading]
    remaining: Tensor = D - Ut.T @ removed
    return remaining.to(task_vector.dtype)


def norm(vector: Parameters) -> float:
    """Return the norm of all parameters together, in float64; the same to the last bit whatever the order of names."""
    parts = (float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2 for value in vector.values())
    return math.sqrt(math.fsum(parts))
