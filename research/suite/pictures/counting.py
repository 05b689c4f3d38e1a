"""One to four objects of one kind on a conveyor or a table; never overlapping by much."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Drawing, Floats
from mingle_edge.demo.outlines import box, disc, regular, rotation
from research.suite.pictures.shapes import any_surface

COUNTS = ("one", "two", "three", "four")
_KINDS = {
    "disc": disc(),
    "square": regular(4, pi / 4),
    "bar": box(-1, -0.35, 1, 0.35),
    "nut": regular(6),
}


def draw_count(rng: np.random.Generator, label: str) -> Floats:
    """Draw as many objects as the class says, sizes and angles a little different."""
    ground, fill = any_surface(rng, dark=rng.uniform() < 0.5)
    drawing, kind, size = Drawing(ground), str(rng.choice(list(_KINDS))), rng.uniform(0.11, 0.15)
    for center in _places(rng, COUNTS.index(label) + 1, 2.25 * size):
        angle, radius = rng.uniform(0, 2 * pi), size * rng.uniform(0.85, 1.1)
        outline = radius * _KINDS[kind] @ rotation(angle).T + center
        drawing.polygon(outline + 0.025, (0.5 * ground.mean(), 0.5 * ground.mean(), 0.5 * ground.mean()))  # shadow
        drawing.polygon(outline, fill)
        if kind == "nut":
            drawing.polygon(0.45 * radius * disc() + center, tuple(ground.mean((0, 1))))
    return drawing.finish()


def _places(rng: np.random.Generator, count: int, distance: float) -> Floats:
    """Draw centers `[count, 2]` at least a distance apart, drawn again until they are."""
    while True:
        centers = rng.uniform(0.16, 0.84, (count, 2))
        apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1) + np.eye(count)
        if apart.min() > distance:
            return centers
