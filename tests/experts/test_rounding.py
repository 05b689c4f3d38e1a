"""Rounding in torch is that of the exporter and the runtime, bit for bit, and gradients pass through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.rounding import rounded_expert
from mingle_edge_export.precision.quantization import CODE_UNIT, pack_int4, quantize_blocks, quantize_change, quantize_pair
from mingle_edge_runtime.experts.adapter import expand

VALUES = st.floats(-4, 4, width=32) | st.just(0.0)


def expert_of(A, B, bias) -> CompleteExpert:
    return CompleteExpert({"q": (torch.tensor(B.T), torch.tensor(A))}, {"q.bias": torch.tensor(bias)})


def shapes(draw):
    return draw(st.integers(1, 5)), draw(st.integers(1, 70)), draw(st.integers(1, 70))


@st.composite
def factors(draw):
    """A `[r, d_in]` and B `[r, d_out]`, with rows of zeros and of very different sizes among them."""
    rank, d_in, d_out = shapes(draw)
    return draw(arrays(np.float32, (rank, d_in), elements=VALUES)), draw(arrays(np.float32, (rank, d_out), elements=VALUES))


@settings(max_examples=60, deadline=None)
@given(factors())
def test_rows_of_8_bits_have_the_codes_that_the_exporter_writes(pair) -> None:
    A, B = pair
    bias = np.zeros(B.shape[1], np.float32)
    rounded = rounded_expert(expert_of(A, B, bias), {"q.bias": torch.tensor(bias)}, "int8")
    A_codes, B_codes, scale = quantize_pair(A, B)
    product = (B_codes.T * CODE_UNIT).astype(np.float64) @ (scale[:, None] * A_codes.T).astype(np.float64)
    ours_B, ours_A = (side.numpy().astype(np.float64) for side in rounded.factors["q"])
    np.testing.assert_allclose(ours_B @ ours_A, product, rtol=0, atol=3e-6 * max(1.0, np.abs(product).max()))
    for ours, codes in ((ours_A, A_codes.T), (ours_B.T, B_codes)):  # values are codes times one scale a row
        peaks = np.abs(ours).max(1, keepdims=True)
        np.testing.assert_array_equal(np.rint(ours / np.where(peaks > 0, peaks / 64, 1)), codes)


@settings(max_examples=60, deadline=None)
@given(factors())
def test_blocks_of_4_bits_have_the_codes_that_the_runtime_expands_them_to(pair) -> None:
    A, B = pair
    stored = {}
    for name, rows in (("A", A), ("B", B)):
        codes, scales = quantize_blocks(rows, bits=4)
        stored |= {f"q.{name}_nibbles": pack_int4(codes), f"q.{name}_block_scales": scales.astype(np.float16)}
    expanded = expand(stored, {"q.A_codes": [A.shape[1], "r"], "q.B_codes": ["r", B.shape[1]]}, {}, "expert")
    bias = np.zeros(B.shape[1], np.float32)
    rounded = rounded_expert(expert_of(A, B, bias), {"q.bias": torch.tensor(bias)}, "int4")
    ours_B, ours_A = (side.numpy() for side in rounded.factors["q"])
    for ours, codes in ((ours_A, expanded["q.A_codes"].T), (ours_B.T, expanded["q.B_codes"])):
        peaks = np.abs(ours).max(1, keepdims=True)
        np.testing.assert_array_equal(np.rint(ours / np.where(peaks > 0, peaks / np.float32(64), 1)), codes)


@settings(max_examples=40, deadline=None)
@given(arrays(np.float32, (3, 40), elements=VALUES), arrays(np.float32, (3, 40), elements=VALUES))
def test_vectors_move_by_the_codes_that_the_exporter_writes(default, value) -> None:
    expert = CompleteExpert({}, {"positions": torch.tensor(value)})
    ours = rounded_expert(expert, {"positions": torch.tensor(default)}, "int4").unfactored["positions"].numpy()
    codes, scale = quantize_change(value, default)
    stored = {"positions.change_codes": codes, "positions.change_scale": scale}
    np.testing.assert_array_equal(ours, expand(stored, {}, {"positions": default}, "expert")["positions"])
    untouched = rounded_expert(expert, {"positions": torch.tensor(default)}, "int8").unfactored["positions"].numpy()
    np.testing.assert_array_equal(untouched, value)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_gradients_pass_as_if_nothing_were_rounded(precision) -> None:
    generator = torch.Generator().manual_seed(0)
    A, B, bias = (torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((3, 40), (50, 3), (50,)))
    rounded = rounded_expert(CompleteExpert({"q": (B, A)}, {"q.bias": bias}), {"q.bias": torch.zeros(50)}, precision)
    (ours_B, ours_A), weights = rounded.factors["q"], torch.randn(50, 40, generator=generator)
    ((ours_B @ ours_A * weights).sum() + rounded.unfactored["q.bias"].sum()).backward()
    torch.testing.assert_close(A.grad, ours_B.T.detach() @ weights)
    torch.testing.assert_close(B.grad, weights @ ours_A.T.detach())
    torch.testing.assert_close(bias.grad, torch.ones(50))
    assert not torch.equal(ours_A, A)


def test_fp32_is_the_expert_itself() -> None:
    expert = expert_of(np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), np.ones(4, np.float32))
    assert rounded_expert(expert, {}, "fp32") is expert
