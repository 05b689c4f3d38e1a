"""Truncated and factored decompositions against full SVDs, and expert construction against its textbook form."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.experts.low_rank import effective_rank, svd_of_product_sum, truncated_svd
from mingle_edge.experts.task_vectors import build_expert, remove_interference

sizes = st.integers(2, 12)


def random(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def textbook_interference_removal(task_vector, earlier):
    """Paper, section 3.1, with the full square bases of a materialised sum."""
    U, singular, Vh = torch.linalg.svd(sum(B @ A for B, A in earlier), full_matrices=True)
    p = singular / singular.sum()
    rank = int(np.exp(-sum(x * np.log(x) for x in p.numpy() if x > 0)))
    P = U.T @ task_vector @ Vh.T
    P[:rank, :rank] = 0
    return U @ P @ Vh


@given(sizes, sizes, st.integers(1, 12), st.integers(0, 99))
def test_truncated_svd_is_the_best_approximation_of_its_rank(rows, columns, rank, seed):
    matrix = random(seed, rows, columns)
    B, A = truncated_svd(matrix, rank)
    U, singular, Vh = torch.linalg.svd(matrix, full_matrices=False)
    best = U[:, :rank] @ torch.diag(singular[:rank]) @ Vh[:rank]
    assert B.shape == (rows, min(rank, rows, columns))
    # A Gram matrix knows singular values to sqrt(eps64) of the largest.
    torch.testing.assert_close((matrix - B @ A).norm(), (matrix - best).norm(), rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(A.norm(dim=1), singular[:rank], rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_truncated_svd_of_a_rank_deficient_matrix_is_finite_and_exact(shape):
    matrix = random(0, shape[0], 2) @ random(1, 2, shape[1])
    for zero_or_low in (matrix, torch.zeros(shape, dtype=torch.float64)):
        B, A = truncated_svd(zero_or_low, 5)
        assert B.isfinite().all()
        torch.testing.assert_close(B @ A, zero_or_low)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), sizes, sizes, st.integers(0, 99))
def test_svd_from_factors_is_the_svd_of_their_sum(ranks, d_out, d_in, seed):
    factors = [(random(seed + i, d_out, r), random(seed + 50 + i, r, d_in)) for i, r in enumerate(ranks)]
    U, singular, V = svd_of_product_sum(factors)
    total = sum(B @ A for B, A in factors)
    torch.testing.assert_close(U @ torch.diag(singular) @ V.T, total)
    full = torch.linalg.svdvals(total)
    torch.testing.assert_close(singular[: len(full)], full[: len(singular)], rtol=1e-9, atol=1e-9)


@given(st.integers(1, 8), st.integers(0, 99))
def test_effective_rank_of_equal_values_is_their_number(count, seed):
    values = torch.cat([torch.full((count,), 2.5), torch.zeros(seed % 3)]).double()
    assert effective_rank(values * (1 + 1e-9)) in (count - 1, count)  # int() may cut 3.9999... to 3
    assert effective_rank(torch.zeros(4)) == 0


@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (12, 12)])
def test_expert_construction_equals_the_textbook_form(shape):
    earlier = []
    for t in range(4):
        task_vector = random(t, *shape)
        reference = textbook_interference_removal(task_vector, earlier) if earlier else task_vector
        torch.testing.assert_close(remove_interference(task_vector, earlier), reference, rtol=1e-9, atol=1e-9)
        B, A = build_expert(task_vector, 3, earlier)
        U, singular, Vh = torch.linalg.svd(reference, full_matrices=False)
        torch.testing.assert_close(B @ A, U[:, :3] @ torch.diag(singular[:3]) @ Vh[:3], rtol=1e-9, atol=1e-9)
        earlier.append((B, A))


def test_float32_experts_agree_with_a_float64_svd():
    task_vector = random(0, 96, 160, dtype=torch.float32) * torch.logspace(0, -4, 160)
    B, A = build_expert(task_vector, 24)
    U, singular, Vh = torch.linalg.svd(task_vector.double(), full_matrices=False)
    best = U[:, :24] @ torch.diag(singular[:24]) @ Vh[:24]
    assert (B.double() @ A.double() - best).norm() <= 1e-6 * best.norm()
