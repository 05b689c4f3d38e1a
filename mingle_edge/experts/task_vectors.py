"""Experts: the rank-r pairs that carry a task vector, kept out of earlier experts' directions where gates may mix them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mingle_edge.experts.low_rank import effective_rank, svd_of_product_sum, truncated_svd

Factors = tuple[Tensor, Tensor]
"""(B `[d_out, r]`, A `[r, d_in]`)"""


def remove_interference(task_vector: Tensor, earlier: Sequence[Factors]) -> Tensor:
    """Return the task vector `[d_out, d_in]` without its component in the leading directions of the earlier experts' sum.

    Paper, section 3.1: with M = sum B A = U S V' and a its effective rank, the leading a x a block of U' D V is zeroed.
    Only the a leading directions enter, so the thin factors of M suffice: D - Ua (Ua' D Va) Va'.
    """
    if not earlier:
        return task_vector
    U, singular, V = svd_of_product_sum(earlier)
    rank = effective_rank(singular)
    Ua, Va = U[:, :rank], V[:, :rank]
    exact = task_vector.double()
    return (exact - Ua @ (Ua.T @ exact @ Va) @ Va.T).to(task_vector.dtype)


def build_expert(task_vector: Tensor, rank: int, earlier: Sequence[Factors] = ()) -> Factors:
    """Return the expert of one linear layer: the projected task vector truncated to `rank`."""
    return truncated_svd(remove_interference(task_vector, earlier), rank)
