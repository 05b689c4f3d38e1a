"""Iso-C and Iso-CTS: the sum of the task vectors with all singular values alike, and room for each task (arXiv 2502.04959).

Idea: in the sum of task matrices a few directions are far stronger than all others, and tasks that need the others lose. Iso-C
gives every direction of the sum the mean of its singular values. Iso-CTS keeps only a share of the sum's directions, the common
ones, and fills the rest with the leading directions of what each task has outside them, then makes all of them orthogonal and
equally strong.
Limitation: one set of weights. Directions that mattered to nobody become as strong as the others, and a scaling that suits the
number of tasks has to be found on labeled images. A single task is not its own model, as its spectrum is flattened too.

As in the authors' code (danielm1405/iso-merging, `iso.py`) positions are a matrix, vectors and the patch embedding are
averaged, and the scaling is that of the whole vector. q, k and v are three matrices, where theirs have one; the vision tower's
projection is one more. Iso-C needs the sums alone. Iso-CTS looks for each task's directions outside the common ones, which
change with every task, so every task vector is kept where models are merged, and all tasks are merged at once with each that
arrives. Its scaling is chosen on validation images by its authors; here it is 1 unless it is tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.methods.singular_components import is_matrix, mean, nearest_orthonormal
from mingle_edge.comparison.methods.static import MergedTower


@dataclass(frozen=True)
class IsotropicSum:
    """What Iso-C keeps of the tasks so far."""

    total: Parameters  # the sum of their task vectors
    merged: Parameters


@dataclass(frozen=True)
class IsotropicSubspaces:
    """What Iso-CTS keeps of the tasks so far: everything."""

    task_vectors: tuple[Parameters, ...]
    merged: Parameters


def merge(memory: IsotropicSum | None, task_vector: Parameters, count: int, scaling: float) -> IsotropicSum:
    """Return the sum with one more task, and scaled: U V' mean(S) of every sum U S V', the mean of everything else: Iso-C."""
    total = dict(task_vector) if memory is None else {n: memory.total[n] + value for n, value in task_vector.items()}
    flat = {n: flattened(value) if is_matrix(n, value) else value / count for n, value in total.items()}
    return IsotropicSum(total, {name: scaling * value for name, value in flat.items()})


def merge_with_subspaces(
    memory: IsotropicSubspaces | None, task_vector: Parameters, count: int, scaling: float, share: float
) -> IsotropicSubspaces:
    """Return all task vectors, and scaled: of matrices the isotropic one of `with_subspaces`, of the rest the mean: Iso-CTS."""
    vectors = (*(() if memory is None else memory.task_vectors), dict(task_vector))
    merged = {}
    for name, value in task_vector.items():
        own = [vector[name] for vector in vectors]
        merged[name] = scaling * (with_subspaces(own, share) if is_matrix(name, value) else mean(own))
    return IsotropicSubspaces(vectors, merged)


def flattened(matrix: Tensor) -> Tensor:
    """Return the matrix with every singular value replaced by their mean, computed in float64."""
    U, singular, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    flat: Tensor = singular.mean() * (U @ Vh)
    return flat.to(matrix.dtype)


def with_subspaces(matrices: Sequence[Tensor], share: float) -> Tensor:
    """Return the isotropic matrix of common and task-specific directions of matrices `[d_out, d_in]`, in float64.

    Of the smaller side's d directions about `share d` are the leading ones of the sum; the others are divided evenly among the
    tasks, each of which gives the leading ones of its matrix outside the space of the common left singular vectors.
    """
    total = torch.stack([matrix.double() for matrix in matrices]).sum(0)
    U, singular, Vh = torch.linalg.svd(total, full_matrices=False)
    size, tasks = len(singular), len(matrices)
    each = min(round((size - int(size * share)) / tasks), size // tasks)
    common = size - each * tasks
    left, values, right = [U[:, :common]], [singular[:common]], [Vh[:common]]
    for matrix in matrices if each else ():
        outside = matrix.double() - U[:, :common] @ (U[:, :common].T @ matrix.double())
        own_left, own_values, own_right = torch.linalg.svd(outside, full_matrices=False)
        left.append(own_left[:, :each])
        values.append(own_values[:each])
        right.append(own_right[:each])
    joined = nearest_orthonormal(torch.cat(left, dim=1)) @ nearest_orthonormal(torch.cat(right).T).T  # [d_out, d_in]
    return (torch.cat(values).mean() * joined).to(matrices[0].dtype)


iso_c = partial(MergedTower, merge)
iso_cts = partial(MergedTower, merge_with_subspaces)
