"""Traffic signs: eight signs in front of a street, at any place and size, slightly turned, some of them half in the shade."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mingle_edge.demo.canvas import SIDE, Color, Drawing, Floats, blend, color, smooth_noise

_RED: tuple[float, float, float] = (0.99, 0.85, 0.75)  # hue, saturation, value
_BLUE = (0.61, 0.80, 0.70)
_YELLOW = (0.14, 0.85, 0.90)
_WHITE = (0.60, 0.04, 0.93)
_BLACK = (0.60, 0.15, 0.12)


class Placement:
    """Where a sign stands: turns points of the sign (unit circle about its center, y down) into image points."""

    def __init__(self, rng: np.random.Generator) -> None:
        angle, self.radius = rng.normal(0, 0.09), rng.uniform(0.32, 0.48)
        reach = 0.5 - 0.8 * self.radius
        self.center = 0.5 + rng.uniform(-reach, reach, 2)
        turn = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        squeeze = np.diag([rng.uniform(0.82, 1.0), 1.0])  # seen from the side
        self.matrix = self.radius * turn @ squeeze

    def __call__(self, points: Floats) -> Floats:
        """Return points `[n, 2]` of the sign as points of the image."""
        return points @ self.matrix.T + self.center


Sign = Callable[[np.random.Generator, Drawing, Placement], None]


def draw_sign(rng: np.random.Generator, label: str) -> Floats:
    """Draw a street scene `[SIDE, SIDE, 3]` with one sign of `SIGNS`."""
    drawing, place = Drawing(_street(rng)), Placement(rng)
    for _ in range(rng.integers(2, 6)):  # clutter behind the sign: walls, doors, cars
        corner, size = rng.uniform(-0.2, 1, 2), rng.uniform(0.1, 0.5, 2)
        drawing.polygon(_polygon(4, 0.785) * size + corner, color(rng, saturation=0.45, value=rng.uniform(0.2, 0.8)))
    foot = np.stack([place.center, place.center + np.asarray([0, 1])])
    drawing.line(foot, color(rng, saturation=0.05, value=0.5), 0.04)
    SIGNS[label](rng, drawing, place)
    image = drawing.finish()
    return image * (1 - rng.uniform(0, 0.5) * (smooth_noise(rng, 2) > 0.6)[:, :, None])


def _street(rng: np.random.Generator) -> Floats:
    horizon, rows = rng.uniform(0.3, 0.8), np.arange(SIDE) / SIDE
    ground = np.repeat((rows > horizon)[:, None], SIDE, axis=1)
    sky = color(rng, rng.uniform(0.5, 0.65), 0.25, rng.uniform(0.4, 0.9))
    return blend(0.7 * ground + 0.3 * smooth_noise(rng, 4), sky, color(rng, rng.uniform(0, 0.35), 0.25, 0.35))


def _polygon(corners: int, start: float = 0.0, radius: float = 1.0) -> Floats:
    angles = start + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [corners, 2]


def _points(*values: tuple[float, float]) -> Floats:
    return np.asarray(values)


def _disc(radius: float = 1.0) -> Floats:
    return _polygon(28, radius=radius)


def _paint(rng: np.random.Generator, hsv: tuple[float, float, float]) -> Color:
    return color(rng, *hsv)


def _stop(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    white = _paint(rng, _WHITE)
    drawing.polygon(place(_polygon(8, np.pi / 8)), white)
    drawing.polygon(place(_polygon(8, np.pi / 8, 0.9)), _paint(rng, _RED))
    for x in (-0.55, -0.18, 0.18, 0.55):  # four letters, too small to read
        drawing.line(place(_points((x, -0.22), (x, 0.22))), white, 0.2 * place.radius)


def _yield(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    drawing.polygon(place(_polygon(3, np.pi / 2)), _paint(rng, _RED))
    drawing.polygon(place(_polygon(3, np.pi / 2, 0.55)), _paint(rng, _WHITE))


def _warning(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    drawing.polygon(place(_polygon(3, -np.pi / 2)), _paint(rng, _RED))
    drawing.polygon(place(_polygon(3, -np.pi / 2, 0.7)), _paint(rng, _WHITE))
    drawing.line(place(_points((0, -0.3), (0, 0.3))), _paint(rng, _BLACK), 0.2 * place.radius)


def _no_entry(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    drawing.polygon(place(_disc()), _paint(rng, _RED))
    drawing.polygon(place(_points((-0.65, -0.18), (0.65, -0.18), (0.65, 0.18), (-0.65, 0.18))), _paint(rng, _WHITE))


def _speed_limit(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    drawing.polygon(place(_disc()), _paint(rng, _RED))
    drawing.polygon(place(_disc(0.72)), _paint(rng, _WHITE))
    ink = _paint(rng, _BLACK)
    tens = [
        _points((-0.45, -0.3), (-0.15, -0.3), (-0.3, 0.3)),
        _points((-0.15, -0.3), (-0.42, -0.3), (-0.42, 0), (-0.15, 0), (-0.15, 0.3), (-0.45, 0.3)),
    ]
    drawing.line(place(tens[rng.integers(2)]), ink, 0.16 * place.radius)
    drawing.line(place(_polygon(12, radius=0.28) * _points((0.6, 1.1)) + _points((0.28, 0.0))), ink, 0.16 * place.radius)


def _arrow(rng: np.random.Generator, drawing: Drawing, place: Placement, side: int) -> None:
    white = _paint(rng, _WHITE)
    drawing.polygon(place(_disc()), _paint(rng, _BLUE))
    drawing.line(place(_points((0.35 * -side, 0.65), (0.35 * -side, -0.1), (0.2 * side, -0.1))), white, 0.28 * place.radius)
    drawing.polygon(place(_points((0.15 * side, -0.55), (0.75 * side, -0.1), (0.15 * side, 0.35))), white)


def _turn_left(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    _arrow(rng, drawing, place, -1)


def _turn_right(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    _arrow(rng, drawing, place, 1)


def _priority_road(rng: np.random.Generator, drawing: Drawing, place: Placement) -> None:
    drawing.polygon(place(_polygon(4)), _paint(rng, _WHITE))
    drawing.polygon(place(_polygon(4, radius=0.7)), _paint(rng, _YELLOW))


SIGNS: dict[str, Sign] = {
    "stop": _stop,
    "yield": _yield,
    "warning": _warning,
    "no entry": _no_entry,
    "speed limit": _speed_limit,
    "turn left": _turn_left,
    "turn right": _turn_right,
    "priority road": _priority_road,
}
