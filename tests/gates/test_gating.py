"""Gated layers against materialised weights, and routes against a loop over images."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.gates.gating import ExpertStack, GatedExperts, GatedLinear, SharedCoefficients, choose


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


@given(st.integers(0, 10**6), shapes, st.sampled_from([1, 2, 5, None]))
def test_factored_equals_materialised_for_every_k(seed, shape, k):
    parameters, gated, x = layer(seed, *shape)
    routes = []
    T = len(gated.gate_bias)
    output = GatedLinear(parameters, {"l": gated}, top_k=k and min(k, T), routes=routes if k else None)("l", x)
    values = torch.stack([tokens.mean(0) @ gated.gate_weight.T + gated.gate_bias for tokens in x])
    norms = torch.stack([(B @ A).norm() for B, A in zip(gated.experts.B, gated.experts.A, strict=True)])
    coefficients = torch.zeros_like(values)
    for i, row in enumerate(values):
        for t in sorted(range(T), key=lambda t: -float(row[t].abs() * norms[t]))[:k]:
            coefficients[i, t] = row[t]
    expected = materialised(parameters, gated, x, coefficients)
    assert (output.double() - expected).norm() <= 1e-5 * expected.norm()
    assert [tasks.shape for tasks, _ in routes] == ([(5, min(k, T))] if k else [])


@given(st.integers(0, 10**6), shapes, st.integers(1, 5), st.integers(1, 7), st.sampled_from([None, 1]))
def test_pooled_gates_equal_materialised_weights_for_few_and_many_tokens(seed, shape, images, tokens, k):
    parameters, gated, x = layer(seed, *shape)
    x = x[:images, :tokens].requires_grad_()
    weight = gated.gate_weight.clone().requires_grad_()
    ours = GatedLinear(parameters, {"l": GatedExperts(gated.experts, weight, gated.gate_bias)}, top_k=k, pooling="batch")
    output = ours("l", x)
    values = (x.mean((0, 1)) @ weight.T + gated.gate_bias).double()
    if k:
        norms = torch.stack([(B @ A).norm() for B, A in zip(gated.experts.B, gated.experts.A, strict=True)])
        values = values * torch.nn.functional.one_hot((values.abs() * norms).argmax(), shape[0])
    deltas = gated.experts.B.double() @ gated.experts.A.double()
    merged = parameters["l.weight"].double() + torch.einsum("t,toi->oi", values, deltas)
    expected = x.double() @ merged.T + parameters["l.bias"].double()
    assert (output.double() - expected).norm() <= 1e-5 * expected.norm()
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    for ours_gradient, gradient in zip(
        torch.autograd.grad((output * direction).sum(), [x, weight]),
        torch.autograd.grad((expected * direction).sum(), [x, weight]),
        strict=True,
    ):
        assert (ours_gradient - gradient).norm() <= 1e-4 * gradient.norm() + 1e-5


def test_gradients_of_shared_coefficients_are_those_of_finite_differences():
    g = torch.Generator().manual_seed(0)
    x, weight, bias, A, B, c = (
        torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((2, 3, 4), (5, 4), (5,), (6, 4), (5, 6), (6,))
    )
    assert torch.autograd.gradcheck(
        lambda x, c: SharedCoefficients.apply(x, weight, bias, A, B, c), (x.requires_grad_(), c.requires_grad_())
    )


def test_masked_tasks_are_never_chosen_and_fill_up_with_weight_zero():
    values = torch.tensor([[0.1, -9.0, 0.2]])
    tasks, weights = choose(values, torch.ones(3), top_k=2, task_mask=torch.tensor([1.0, 0.0, 0.0]))
    assert tasks[0, 0] == 0
    assert weights.tolist() == [[values[0, 0].item(), 0.0]]
