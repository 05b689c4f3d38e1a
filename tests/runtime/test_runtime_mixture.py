"""Several experts joined into one against the sum of their outputs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge_runtime.experts.mixture import mix

D_IN, D_OUT = 6, 5


def expert(generator: np.random.Generator, rank: int, coded: bool) -> dict[str, np.ndarray]:
    """A random expert of one layer, in 8-bit codes or with one vector besides."""
    if coded:
        return {
            "q.A_codes": generator.integers(-64, 65, (D_IN, rank), dtype=np.int8),
            "q.B_codes": generator.integers(-64, 65, (rank, D_OUT), dtype=np.int8),
            "q.scale": generator.random(rank, dtype=np.float32) / np.float32(64**2),
        }
    shapes = {"q.A": (rank, D_IN), "q.B": (rank, D_OUT), "ln.bias": (D_OUT,)}
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def layer(x: np.ndarray, one: dict[str, np.ndarray]) -> np.ndarray:
    """What the tower's graph adds for `x [tokens, D_IN]`, as docs/bundle-format.md says."""
    if "q.scale" in one:
        inner = x @ one["q.A_codes"].astype(np.float64) * one["q.scale"]
        return inner @ one["q.B_codes"]
    return x @ one["q.A"].T @ one["q.B"]


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-1, 1)), min_size=1, max_size=4), st.integers(0, 99), st.booleans())
def test_a_mixture_acts_as_the_weighted_sum(parts, seed: int, coded: bool) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((7, D_IN)).astype(np.float32)
    defaults = {"ln.bias": generator.standard_normal(D_OUT).astype(np.float32)}
    experts = [expert(generator, rank, coded) for rank, _ in parts]
    weights = [weight for _, weight in parts]
    joined = mix(experts, weights, defaults)
    pairs = list(zip(weights, experts, strict=True))
    np.testing.assert_allclose(layer(x, joined), sum(c * layer(x, one) for c, one in pairs), atol=1e-4)
    if not coded:
        vector = defaults["ln.bias"] + sum(c * (one["ln.bias"] - defaults["ln.bias"]) for c, one in pairs)
        np.testing.assert_allclose(joined["ln.bias"], vector, atol=1e-5)
    assert {name: array.dtype for name, array in joined.items()} == {name: array.dtype for name, array in experts[0].items()}
