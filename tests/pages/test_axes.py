"""Axes of ratios: 1 is always labeled, and ticks are few and lie where the values do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.pages.axes import ratio_ticks, ratios, sizes


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 1.2, [0.9, 0.95, 1, 1.05, 1.1, 1.15]),
        (1, 2.2, [1, 1.5, 2]),
        (0.38, 4.7, [0.5, 1, 2]),
        (0.01, 100, [0.01, 0.1, 1, 10, 100]),
    ],
)
def test_ticks_of_ratios_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert ratio_ticks(low, high) == pytest.approx([tick for tick in ticks if low <= tick <= high])


@given(st.floats(1e-12, 1), st.floats(1, 1e12))
def test_ratios_have_few_ticks_and_one_of_them_is_1(low: float, high: float) -> None:
    ticks = ratio_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert 1.0 in ticks
    assert ticks == sorted(ticks)
    if high > 1.02 * low:
        assert low * 0.99 <= ticks[0]
        assert ticks[-1] <= high * 1.01


@given(st.lists(st.floats(1e-6, 1e6), max_size=5))
def test_an_axis_of_ratios_is_logarithmic_and_holds_1_and_every_value(values: list[float]) -> None:
    scale, axis = ratios(values)
    low, high = scale["domain"]
    assert scale["type"] == "log"
    assert all(low <= value <= high for value in (1, *values, *axis["values"]))
    assert math.log(high / low) <= 1.2 * math.log(max(1.02, *values, 1) / min(0.98, *values, 1))


def test_sizes_that_differ_by_much_are_logarithmic_and_others_are_not() -> None:
    assert sizes([351, 7025])[0]["type"] == "log"
    assert "type" not in sizes([351, 400])[0]
    assert "type" not in sizes([-5, 400])[0]
