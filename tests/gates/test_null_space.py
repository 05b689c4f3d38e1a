"""The constraint: what is protected stays exactly unseen, what is new is learned."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.gates.adaptation import NewGate, adapt
from mingle_edge.gates.null_space import NullSpaceProjector, leading_directions, leading_row_directions, new_directions


def orthonormal(seed, m, d):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, m, generator=g, dtype=torch.float64)).Q.T


@given(st.integers(0, 999), st.integers(1, 4))
def test_hard_projection_is_the_orthogonal_projector(seed, m):
    basis = orthonormal(seed, m, 9)
    vector = torch.randn(1, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = vector @ (torch.eye(9, dtype=torch.float64) - basis.T @ basis)
    torch.testing.assert_close(NullSpaceProjector(basis).project(vector), expected)


@given(st.integers(0, 999), st.integers(0, 4), st.integers(1, 5), st.integers(0, 3))
def test_rank_checked_directions_extend_the_span_without_adding_noise(seed, m, fresh, repeated):
    basis = orthonormal(seed, m, 12)
    g = torch.Generator().manual_seed(seed + 1000)
    directions = torch.randn(fresh, 12, generator=g, dtype=torch.float64)
    known = torch.cat([basis, directions])
    mixed = torch.randn(repeated, len(known), generator=g, dtype=torch.float64) @ known  # nothing new in these
    added = new_directions(basis, torch.cat([directions, mixed]), "rank-checked")
    assert len(added) == fresh
    grown = torch.cat([basis, added])
    torch.testing.assert_close(grown @ grown.T, torch.eye(len(grown), dtype=torch.float64), atol=1e-9, rtol=0)
    inside = directions - directions @ grown.T @ grown
    torch.testing.assert_close(inside, torch.zeros_like(inside), atol=1e-9, rtol=0)


def test_qr_adds_a_row_for_every_direction_and_spans_the_same():
    basis, directions = orthonormal(0, 2, 8), orthonormal(1, 3, 8)
    added = new_directions(basis, directions, "qr")
    assert added.shape == (3, 8)
    torch.testing.assert_close(added @ basis.T, torch.zeros(3, 2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_leading_directions_of_rows_and_of_their_second_moment_agree():
    rows = torch.randn(30, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(7, 0, -1)
    from_moment, from_rows = leading_directions(rows.T @ rows, 3), leading_row_directions(rows, 3)
    torch.testing.assert_close((from_moment * from_rows).sum(1).abs(), torch.ones(3, dtype=torch.float64))


def test_hard_constraint_on_updates_leaves_protected_inputs_unseen_to_float_rounding():
    """Of a gate of seven weights and a bias trained on random targets, started inside the null space of a basis."""
    basis = orthonormal(5, 3, 8)
    g = torch.Generator().manual_seed(3)
    start = NullSpaceProjector(basis).project(torch.randn(1, 8, generator=g, dtype=torch.float64))
    gate = NewGate(start[:, :-1].clone(), start[:, -1].clone(), NullSpaceProjector(basis), covers_bias=True)
    x = torch.randn(20, 7, generator=g, dtype=torch.float64)
    target = torch.randn(20, 2, generator=g, dtype=torch.float64)

    def student(images):
        s = images @ gate.weight.T + gate.bias
        return torch.cat([s, -s], dim=1)

    adapt(student, {"l": gate}, [(x, target)] * 25, learning_rate=0.05, temperature=1.0, projected="update")
    protected = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ basis
    values = protected @ gate.vector().T  # the last column of an input is its constant, which the bias multiplies
    assert values.abs().max() < 1e-14
    assert (gate.vector() - start).norm() > 0.1
