"""Names beside a drawing: in order, and not one over another."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.pages.labels import spread


@given(st.lists(st.floats(0, 300), max_size=12))
def test_names_keep_their_order_and_distance(wanted):
    places = spread(wanted, 15)
    placed = sorted(zip(wanted, places, strict=True))
    assert all(b[1] - a[1] >= 15 - 1e-6 for a, b in pairwise(sorted(placed, key=lambda pair: pair[1])))
    assert all(a[1] < b[1] for a, b in pairwise(placed) if a[0] < b[0])
    if all(b - a > 15 for a, b in pairwise(sorted(wanted))):
        assert places == pytest.approx(wanted)
