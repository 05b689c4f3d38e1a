"""Gated layers against materialised weights, and routes against a loop over images."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.gating import ExpertStack, GatedExperts, GatedLinear, choose, gate_values


def layer(seed, T, rank, d_in, d_out):
    g = torch.Generator().manual_seed(seed)
    stack = ExpertStack(torch.randn(T, rank, d_in, generator=g), torch.randn(T, d_out, rank, generator=g))
    gated = GatedExperts(stack, torch.randn(T, d_in, generator=g), torch.randn(T, generator=g))
    parameters = {"l.weight": torch.randn(d_out, d_in, generator=g), "l.bias": torch.randn(d_out, generator=g)}
    return parameters, gated, torch.randn(5, 7, d_in, generator=g)


def materialised(parameters, gated, x, coefficients):
    """`(W + sum_t c_t B_t A_t) x + b`, an image at a time, in float64."""
    outputs = []
    for tokens, row in zip(x, coefficients, strict=True):
        weight = parameters["l.weight"].double()
        for c, B, A in zip(row, gated.experts.B, gated.experts.A, strict=True):
            weight = weight + c.double() * B.double() @ A.double()
        outputs.append(tokens.double() @ weight.T + parameters["l.bias"].double())
    return torch.stack(outputs)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9))


@given(st.integers(0, 10**6), shapes, st.integers(1, 5))
def test_factored_equals_materialised_for_every_k(seed, shape, k):
    parameters, gated, x = layer(seed, *shape)
    k = min(k, shape[0])
    routes = []
    output = GatedLinear(parameters, {"l": gated}, top_k=k, routes=routes)("l", x)
    values = torch.stack([tokens.mean(0) @ gated.gate_weight.T + gated.gate_bias for tokens in x])
    norms = torch.stack([(B @ A).norm() for B, A in zip(gated.experts.B, gated.experts.A, strict=True)])
    coefficients = torch.zeros_like(values)
    for i, row in enumerate(values):
        for t in sorted(range(shape[0]), key=lambda t: -float(row[t].abs() * norms[t]))[:k]:
            coefficients[i, t] = row[t]
    expected = materialised(parameters, gated, x, coefficients)
    assert (output.double() - expected).norm() <= 1e-5 * expected.norm()
    assert routes[0][0].shape == (5, k)


@given(st.integers(0, 10**6), shapes)
def test_dense_form_equals_top_k_with_all_tasks(seed, shape):
    parameters, gated, x = layer(seed, *shape)
    dense = GatedLinear(parameters, {"l": gated})("l", x)
    every = GatedLinear(parameters, {"l": gated}, top_k=shape[0])("l", x)
    torch.testing.assert_close(dense, every, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 10**6), shapes)
def test_an_image_does_not_depend_on_its_batch(seed, shape):
    parameters, gated, x = layer(seed, *shape)
    linear = GatedLinear(parameters, {"l": gated}, top_k=1)
    alone = torch.cat([linear("l", image[None]) for image in x])
    torch.testing.assert_close(linear("l", x), alone, rtol=1e-5, atol=1e-5)


def test_batch_pooling_gives_every_image_the_mean_gate():
    _, gated, x = layer(0, 3, 2, 4, 4)
    per_image = gate_values(x, gated.gate_weight, gated.gate_bias)
    pooled = gate_values(x, gated.gate_weight, gated.gate_bias, "batch")
    torch.testing.assert_close(pooled, per_image.mean(0).expand(5, 3))


def test_masked_tasks_are_never_chosen_and_fill_up_with_weight_zero():
    values = torch.tensor([[0.1, -9.0, 0.2]])
    tasks, weights = choose(values, torch.ones(3), top_k=2, task_mask=torch.tensor([1.0, 0.0, 0.0]))
    assert tasks[0, 0] == 0
    assert weights.tolist() == [[values[0, 0].item(), 0.0]]


def test_contribution_ranks_by_gate_times_size_of_the_expert():
    tasks, weights = choose(torch.tensor([[1.0, -0.5]]), torch.tensor([1.0, 3.0]), top_k=1)
    assert (tasks.item(), weights.item()) == (1, -0.5)
