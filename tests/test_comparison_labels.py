"""Where names go in drawings: over no point, over no other name, in order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mingle_edge.comparison.page.label_places import apart, places


@example([(0.54, 0.4, 90), (0.51, 0.41, 40)])  # 7 pixels apart, and under the name where the drawing is wide
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(10, 130)), min_size=1, max_size=16))
def test_names_cover_neither_names_nor_points_at_any_width(points):
    narrow, height = 222.0, 400.0
    widths = [float(width) for _, _, width in points]
    found = places([(x * narrow, y * height) for x, y, _ in points], widths, narrow, height)
    assert len(points) > 3 or None not in found
    for width in (narrow, 500.0, 1300.0):
        boxes = []
        for (x, y, _), length, place in zip(points, widths, found, strict=True):
            if place is not None:
                left = x * width + place.across - {1: 0.0, 0: length / 2, -1: length}[place.side]
                middle = y * height + place.down
                boxes.append((left, left + length, middle - 7, middle + 7))
                assert left >= -1e-6
                assert left + length <= width + 1e-6
        for i, (left, right, top, bottom) in enumerate(boxes):
            for other in boxes[:i]:
                assert right <= other[0] or other[1] <= left or bottom <= other[2] + 1e-6 or other[3] <= top + 1e-6
            for x, y, _ in points:
                inside = left + 1e-6 < x * width < right - 1e-6 and top + 1e-6 < y * height < bottom - 1e-6
                assert not inside


@given(st.lists(st.floats(0, 300), max_size=12))
def test_names_at_ends_of_curves_keep_their_order_and_distance(wanted):
    found = apart(wanted, 15)
    placed = sorted(zip(wanted, found, strict=True))
    assert all(b[1] - a[1] >= 15 - 1e-6 for a, b in pairwise(sorted(placed, key=lambda pair: pair[1])))
    assert all(a[1] < b[1] for a, b in pairwise(placed) if a[0] < b[0])
    if all(b - a > 15 for a, b in pairwise(sorted(wanted))):
        assert found == pytest.approx(wanted)
