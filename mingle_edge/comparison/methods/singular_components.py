"""The singular components of task vectors, and what they make together (Task Singular Vectors, arXiv 2412.00081).

With T tasks one in T of the components of every task's matrix is kept. The share falls with every task, so what was
left out is never missed: all tasks at once give the same, and however many tasks there are, the components together have the
rank of one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.methods.opcm import PRESENT

STEM = "patch_embedding.weight"


@dataclass(frozen=True)
class Components:
    """The leading singular components of one task's matrix `[d_out, d_in]`."""

    U: Tensor  # [d_out, r], orthonormal columns
    singular: Tensor  # [r], descending
    Vh: Tensor  # [r, d_in], orthonormal rows

    @classmethod
    def of(cls, matrix: Tensor) -> Components:
        """Decompose a matrix, in float64; a direction that it does not have is left out."""
        U, singular, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        present = int((singular > PRESENT * singular[0]).sum())
        return cls(*(part.to(matrix.dtype) for part in (U, singular, Vh))).leading(present)

    def leading(self, count: int) -> Components:
        """Return the first so many components, or all there are."""
        return Components(self.U[:, :count].clone(), self.singular[:count].clone(), self.Vh[:count].clone())

    @property
    def smaller_side(self) -> int:
        """Return the most components that such a matrix can have."""
        return min(len(self.U), self.Vh.shape[1])


@dataclass(frozen=True)
class TaskComponents:
    """What is kept of one task vector."""

    matrices: Mapping[str, Components]
    others: Parameters  # what is no matrix, in full

    @classmethod
    def of(cls, task_vector: Parameters) -> TaskComponents:
        """Decompose every matrix of a task vector."""
        matrices = {name: Components.of(value) for name, value in task_vector.items() if is_matrix(name, value)}
        return cls(matrices, {name: value for name, value in task_vector.items() if name not in matrices})

    def shared_among(self, tasks: int) -> TaskComponents:
        """Return one in so many of the components of every matrix, rounded down; it may be none of them."""
        shortened = {name: own.leading(own.smaller_side // tasks) for name, own in self.matrices.items()}
        return TaskComponents(shortened, self.others)

    def tensors(self) -> list[Tensor]:
        """Return all that is kept."""
        parts = [part for own in self.matrices.values() for part in (own.U, own.singular, own.Vh)]
        return [*parts, *self.others.values()]


def is_matrix(name: str, value: Tensor) -> bool:
    """Say whether a parameter has singular vectors; the patch embedding is a convolution in the authors' network."""
    return value.ndim == 2 and name != STEM


def merged(tasks: Sequence[TaskComponents]) -> dict[str, Tensor]:
    """Return the task vector that components make together: U' S V' of every matrix, the mean of everything else.

    S holds the singular values of all tasks, U' and V' are the orthonormal matrices nearest to all tasks' singular vectors
    beside one another, so that no task's directions overlap another's: whitening, an orthogonal Procrustes problem.
    """
    vector = {}
    for name in tasks[0].matrices:
        own = [task.matrices[name] for task in tasks]
        U = nearest_orthonormal(torch.cat([part.U for part in own], dim=1))  # [d_out, R]
        V = nearest_orthonormal(torch.cat([part.Vh for part in own]).T)  # [d_in, R]
        singular = torch.cat([part.singular for part in own]).double()
        vector[name] = ((U * singular) @ V.T).to(own[0].U.dtype)
    return vector | {name: mean([task.others[name] for task in tasks]) for name in tasks[0].others}


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    """Return the matrix with orthonormal columns nearest to `matrix [d, r]`, r <= d, in float64: its polar factor."""
    U, _, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    nearest: Tensor = U @ Vh
    return nearest


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape."""
    return torch.stack(list(tensors)).mean(0)
