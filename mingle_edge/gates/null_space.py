"""The null-space constraint: a new gate must not react to the inputs of earlier tasks (paper, section 3.3).

A basis holds orthonormal rows `[m, d]` of the directions earlier inputs take at one layer. d is d_in, or d_in + 1 where the
gate's bias counts as a weight on a constant input, which is what makes "earlier inputs see no change" exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

INDEPENDENT = 1e-2  # a unit direction with a smaller part outside the basis adds nothing but noise


@dataclass
class NullSpaceProjector:
    """Removes from a vector its part inside the basis, relaxed where past vectors kept pushing that way.

    With r_i the share of the vector along basis direction i, `h <- beta h + (1 - beta) r` starting from 0, and direction i
    is removed by the factor `exp(-gamma h_i)`; gamma 0 is the hard projector.
    """

    basis: Tensor  # [m, d]
    relaxation: float = 0.0  # gamma
    decay: float = 0.99  # beta
    interference: Tensor = field(init=False)  # h, [m]

    def __post_init__(self) -> None:
        self.interference = self.basis.new_zeros(len(self.basis))

    def project(self, vectors: Tensor) -> Tensor:
        """Return the constrained vectors, `[rows, d]` as given; updates the moving average of interference."""
        inside = vectors @ self.basis.T  # [rows, m]
        size = vectors.norm()
        if size > 0:
            share = inside.abs().mean(0) / size
            self.interference = self.decay * self.interference + (1 - self.decay) * share
        return vectors - (inside * torch.exp(-self.relaxation * self.interference)) @ self.basis


def leading_directions(second_moment: Tensor, count: int) -> Tensor:
    """Return the `count` leading eigenvectors of X'X `[d, d]` as rows `[count, d]`, strongest first."""
    eigenvectors: Tensor = torch.linalg.eigh(second_moment).eigenvectors  # [d, d], eigenvalues ascending
    return eigenvectors[:, -count:].flip(1).T


def leading_row_directions(rows: Tensor, count: int) -> Tensor:
    """Return the `count` leading right singular vectors of `rows [n, d]` (fewer if n is smaller), as rows."""
    Vh: Tensor = torch.linalg.svd(rows, full_matrices=False).Vh
    return Vh[:count]


def new_directions(basis: Tensor, directions: Tensor, method: Literal["rank-checked", "qr"]) -> Tensor:
    """Return what `directions [n, d]` add to `basis [m, d]`: orthonormal rows, orthogonal to the basis.

    `rank-checked` leaves out directions the basis already (nearly) contains. `qr` keeps one row per direction whatever it is
    worth, as the published code does, where a dependent direction adds an arbitrary one.
    """
    if method == "qr":
        Q: Tensor = torch.linalg.qr(torch.cat([basis, directions]).T).Q
        return Q.T[len(basis) :]
    grown = basis
    for direction in directions:
        rest = direction
        for _ in range(2):  # twice is enough: Gram-Schmidt with reorthogonalization
            rest = rest - (rest @ grown.T) @ grown
        if rest.norm() > INDEPENDENT * direction.norm():
            grown = torch.cat([grown, (rest / rest.norm())[None]])
    return grown[len(basis) :]
