"""Places for the names of points, so that no name covers a point or another name.

A name is anchored at its point's x, so places found for a narrow drawing stay free when the drawing is stretched sideways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_GAP, _FAR_GAP = 10, 20  # pixels between the middle of a point and its name, beside it and farther up or down
_BESIDE = 8  # pixels up or down that still are beside the point
_RADIUS = 6  # pixels, of a point
_HALF = 7  # pixels, half the height of a name
_SPACE = 3  # pixels left free before and after a name
_STEP = 3  # pixels
_WORSE = {1: 0.0, -1: 2.5, 0: -3.0}  # pixels a name is worse on that side than its distance says
_ROUNDS = 6  # of choosing anew, those first that found no place


@dataclass(frozen=True)
class Place:
    """Where a name goes, relative to its point."""

    side: int  # 1 to the right, -1 to the left, 0 above or below
    down: float  # pixels from the middle of the point to the middle of the name

    @property
    def beside(self) -> bool:
        """Whether it is seen without a line whose name it is."""
        return abs(self.down) <= (_BESIDE if self.side else _HALF + _RADIUS + _STEP)

    @property
    def across(self) -> float:
        """Pixels from the middle of the point to the nearer end of the name, or to its middle above and below."""
        return self.side * (_GAP if self.beside else _FAR_GAP)


@dataclass(frozen=True)
class _Box:
    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


def places(points: Sequence[tuple[float, float]], widths: Sequence[float], width: float, height: float) -> list[Place | None]:
    """A place for the name of each point, or None where there is no room left.

    `points` [n] are (x, y) in pixels of a drawing of `width` and `height`, `widths` [n] those of the names. Names of points
    with close neighbours choose first.
    """
    order = sorted(range(len(points)), key=lambda i: _nearest(points, i))
    best: list[Place | None] | None = None
    for _ in range(_ROUNDS):
        room = _Room(points, widths, width, height)
        for i in order:
            room.found[i] = next((place for place in _choices(height) if room.is_free(i, place)), None)
        if best is None or room.found.count(None) < best.count(None):
            room.untangle_all()
            best = room.found
        order.sort(key=lambda i: room.found[i] is not None)
        if None not in room.found:
            break
    return best or []


class _Room:
    """The drawing with what lies on it."""

    def __init__(self, points: Sequence[tuple[float, float]], widths: Sequence[float], width: float, height: float) -> None:
        self.points, self.widths = points, widths
        self.edge = _Box(0, width, 0, height)
        self.dots = [_Box(x - _RADIUS, x + _RADIUS, y - _RADIUS, y + _RADIUS) for x, y in points]
        self.found: list[Place | None] = [None] * len(points)

    def is_free(self, i: int, place: Place) -> bool:
        """Whether the name of point i fits there."""
        box, edge = self._box(i, place), self.edge
        names = (self._box(j, other) for j, other in enumerate(self.found) if other is not None and j != i)
        inside = edge.left <= box.left and box.right <= edge.right and edge.top <= box.top and box.bottom <= edge.bottom
        return inside and not any(map(box.meets, names)) and not any(self._meets_dot(i, box, j) for j in range(len(self.dots)))

    def untangle_all(self) -> None:
        """Exchange names until no two lines cross, or for as many rounds as there are points."""
        numbers = range(len(self.points))
        for _ in numbers:
            swapped = [self.untangle(i, j) for i in numbers for j in range(i)]
            if not any(swapped):
                return

    def untangle(self, i: int, j: int) -> bool:
        """Exchange the heights of two names on one side whose lines cross, where both fit; whether that was done."""
        first, second = self.found[i], self.found[j]
        if (
            first is None
            or second is None
            or first.side != second.side
            or abs(self.points[i][0] - self.points[j][0]) > _FAR_GAP
        ):
            return False
        heights = self.points[i][1] + first.down, self.points[j][1] + second.down
        if (self.points[i][1] - self.points[j][1]) * (heights[0] - heights[1]) >= 0:
            return False
        self.found[i] = self.found[j] = None
        places = Place(first.side, heights[1] - self.points[i][1]), Place(first.side, heights[0] - self.points[j][1])
        if self.is_free(i, places[0]):
            self.found[i] = places[0]
            if self.is_free(j, places[1]):
                self.found[j] = places[1]
                return True
        self.found[i], self.found[j] = first, second
        return False

    def _box(self, i: int, place: Place) -> _Box:
        x, y = self.points[i][0] + place.across, self.points[i][1] + place.down
        width = self.widths[i]
        left = x - width * (1 - place.side) / 2
        return _Box(left - _SPACE, left + width + _SPACE, y - _HALF, y + _HALF)

    def _meets_dot(self, i: int, box: _Box, j: int) -> bool:
        """Whether point j lies on the name of point i, or comes to lie on it when the drawing is stretched."""
        anchor, other = self.points[i][0], self.points[j][0]
        if i == j:
            return False
        if anchor != other:
            box = _Box(min(box.left, anchor), max(box.right, anchor), box.top, box.bottom)
        return box.meets(self.dots[j])


def _choices(height: float) -> Iterator[Place]:
    """From the best to the worst."""
    downs = [sign * step for step in range(0, int(height), _STEP) for sign in ((1,) if step == 0 else (1, -1))]
    every = [Place(side, down) for down in downs for side in _WORSE if side or abs(down) > _HALF + _RADIUS]
    return iter(sorted(every, key=lambda place: abs(place.down) + _WORSE[place.side]))


def _nearest(points: Sequence[tuple[float, float]], i: int) -> float:
    """How far the nearest other point is, in pixels, y counting more since names lie along x."""
    x, y = points[i]
    return min((abs(x - other[0]) / 4 + abs(y - other[1]) for j, other in enumerate(points) if j != i), default=0.0)


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights close to the wanted ones and at least `gap` apart, in the same order; pixels."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[list[int], float]] = []  # members from top to bottom, middle
    for i in order:
        members, middle = [i], wanted[i]
        while groups and groups[-1][1] + gap * (len(groups[-1][0]) + len(members)) / 2 > middle:
            above, _ = groups.pop()
            members = above + members
            middle = sum(wanted[j] for j in members) / len(members)
        groups.append((members, middle))
    found = [0.0] * len(wanted)
    for members, middle in groups:
        for k, j in enumerate(members):
            found[j] = middle + gap * (k - (len(members) - 1) / 2)
    return found
