"""Traffic signs: eight signs in front of a street, at any place and size, slightly turned, some of them half in the shade."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import SIDE, Drawing, Floats, blend, color, smooth_noise
from mingle_edge.demo.outlines import Part, box, disc, draw_parts, points, regular, rotation

Paint = tuple[float, float, float]
"""hue, saturation, value"""
_RED: Paint = (0.99, 0.85, 0.75)
_BLUE: Paint = (0.61, 0.80, 0.70)
_YELLOW: Paint = (0.14, 0.85, 0.90)
_WHITE: Paint = (0.60, 0.04, 0.93)
_BLACK: Paint = (0.60, 0.15, 0.12)


class Placement:
    """Where a sign stands: turns points of the sign (unit circle about its center, y down) into image points."""

    def __init__(self, rng: np.random.Generator) -> None:
        angle, self.radius = rng.normal(0, 0.09), rng.uniform(0.32, 0.48)
        reach = 0.5 - 0.8 * self.radius
        self.center = 0.5 + rng.uniform(-reach, reach, 2)
        squeeze = np.diag([rng.uniform(0.82, 1.0), 1.0])  # seen from the side
        self.matrix = self.radius * rotation(angle) @ squeeze

    def __call__(self, points: Floats) -> Floats:
        """Return points `[n, 2]` of the sign as points of the image."""
        return points @ self.matrix.T + self.center


def draw_sign(rng: np.random.Generator, label: str) -> Floats:
    """Draw a street scene `[SIDE, SIDE, 3]` with one sign of `SIGNS`."""
    drawing, place = Drawing(_street(rng)), Placement(rng)
    for _ in range(rng.integers(2, 6)):  # clutter behind the sign: walls, doors, cars
        corner, size = rng.uniform(-0.2, 1, 2), rng.uniform(0.1, 0.5, 2)
        drawing.polygon(regular(4, 0.785) * size + corner, color(rng, saturation=0.45, value=rng.uniform(0.2, 0.8)))
    foot = np.stack([place.center, place.center + np.asarray([0, 1])])
    drawing.line(foot, color(rng, saturation=0.05, value=0.5), 0.04)
    paints, parts = SIGNS[label]
    painted = [color(rng, *paint) for paint in paints]
    draw_parts(drawing, place, parts, *painted)
    if label == "speed limit":
        draw_parts(drawing, place, [_TENS[rng.integers(2)], _ZERO], *painted)
    image = drawing.finish()
    return image * (1 - rng.uniform(0, 0.5) * (smooth_noise(rng, 2) > 0.6)[:, :, None])


def _street(rng: np.random.Generator) -> Floats:
    horizon, rows = rng.uniform(0.3, 0.8), np.arange(SIDE) / SIDE
    ground = np.repeat((rows > horizon)[:, None], SIDE, axis=1)
    sky = color(rng, rng.uniform(0.5, 0.65), 0.25, rng.uniform(0.4, 0.9))
    return blend(0.7 * ground + 0.3 * smooth_noise(rng, 4), sky, color(rng, rng.uniform(0, 0.35), 0.25, 0.35))


def _arrow(side: int) -> list[Part]:
    shaft = points((0.35 * -side, 0.65), (0.35 * -side, -0.1), (0.2 * side, -0.1))
    head = points((0.15 * side, -0.55), (0.75 * side, -0.1), (0.15 * side, 0.35))
    return [Part(disc(), 1), Part(shaft, 0, 0.28), Part(head, 0)]


_LETTERS = [Part(points((x, -0.22), (x, 0.22)), 0, 0.2) for x in (-0.55, -0.18, 0.18, 0.55)]  # too small to read
_TENS = [  # 7 and 5
    Part(points((-0.45, -0.3), (-0.15, -0.3), (-0.3, 0.3)), 2, 0.16),
    Part(points((-0.15, -0.3), (-0.42, -0.3), (-0.42, 0), (-0.15, 0), (-0.15, 0.3), (-0.45, 0.3)), 2, 0.16),
]
_ZERO = Part(regular(12, radius=0.28) * points((0.6, 1.1)) + points((0.28, 0.0)), 2, 0.16)
SIGNS: dict[str, tuple[tuple[Paint, ...], list[Part]]] = {
    "stop": ((_WHITE, _RED), [Part(regular(8, pi / 8)), Part(regular(8, pi / 8, 0.9), 1), *_LETTERS]),
    "yield": ((_RED, _WHITE), [Part(regular(3, pi / 2)), Part(regular(3, pi / 2, 0.55), 1)]),
    "warning": (
        (_RED, _WHITE, _BLACK),
        [Part(regular(3, -pi / 2)), Part(regular(3, -pi / 2, 0.7), 1), Part(points((0, -0.3), (0, 0.3)), 2, 0.2)],
    ),
    "no entry": ((_RED, _WHITE), [Part(disc()), Part(box(-0.65, -0.18, 0.65, 0.18), 1)]),
    "speed limit": ((_RED, _WHITE, _BLACK), [Part(disc()), Part(disc(0.72), 1)]),
    "turn left": ((_WHITE, _BLUE), _arrow(-1)),
    "turn right": ((_WHITE, _BLUE), _arrow(1)),
    "priority road": ((_WHITE, _YELLOW), [Part(regular(4)), Part(regular(4, radius=0.7), 1)]),
}
