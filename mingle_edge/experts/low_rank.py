"""Singular value decompositions of what experts are made of, without a full SVD of any large matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best rank-r approximation of `matrix [d_out, d_in]` as factors B `[d_out, r]`, A `[r, d_in]`.

    B holds the leading left singular vectors, A the right ones times their singular values; r is at most the smaller side.
    Eigenvectors of the Gram matrix of the smaller side in float64: its rounding error is eps64 (s_1 / s_r)^2, far below
    float32's, at a fraction of an SVD's cost.
    """
    rank = min(rank, *matrix.shape)
    exact = matrix.double()
    if matrix.shape[0] <= matrix.shape[1]:
        _, eigenvectors = torch.linalg.eigh(exact @ exact.T)  # ascending
        left = eigenvectors[:, -rank:].flip(1)  # [d_out, r]
        return left.to(matrix.dtype), (left.T @ exact).to(matrix.dtype)
    _, eigenvectors = torch.linalg.eigh(exact.T @ exact)
    right = eigenvectors[:, -rank:].flip(1)  # [d_in, r]
    scaled = exact @ right  # [d_out, r], columns are left singular vectors times singular values
    singular = scaled.norm(dim=0)
    # A direction the matrix does not have keeps a zero column: its product with A is zero either way.
    left = scaled / torch.where(singular > 0, singular, 1.0)
    return left.to(matrix.dtype), (singular[:, None] * right.T).to(matrix.dtype)


def orthonormal(B: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product `B A`, the columns of B `[d_out, r]` orthonormal, from one QR decomposition."""
    Q, R = torch.linalg.qr(B.double())
    return Q.to(B.dtype), (R @ A.double()).to(A.dtype)


def svd_of_product_sum(factors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin SVD of `sum_i B_i A_i` from its factors (B `[d_out, r_i]`, A `[r_i, d_in]`), in float64.

    Returns U `[d_out, q]`, singular values `[q]` descending, V `[d_in, q]`, with q at most the sum of the ranks. QR of the
    stacked factors leaves a small core matrix, the only thing decomposed.
    """
    left, left_core = torch.linalg.qr(torch.cat([B for B, _ in factors], dim=1).double())
    right, right_core = torch.linalg.qr(torch.cat([A for _, A in factors], dim=0).double().T)
    U, singular, Vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    return left @ U, singular, right @ Vh.T


def effective_rank(singular_values: Tensor) -> int:
    """Return `int(exp(entropy))` of the normalized singular values; 0 for a zero matrix (paper, section 3.1)."""
    total = singular_values.sum()
    if total <= 0:
        return 0
    p = singular_values / total
    return int(torch.exp(torch.special.entr(p).sum()).item())
