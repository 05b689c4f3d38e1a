"""Cartoon faces with seven expressions, any complexion, hair or none, glasses now and then."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Drawing, Floats, color
from mingle_edge.demo.outlines import Part, arc, disc, draw_parts, points
from research.suite.pictures.shapes import Pose, clutter, gray, surface


def draw_face(rng: np.random.Generator, label: str) -> Floats:
    """Draw a face with one expression of `FACES`."""
    drawing = Drawing(surface(rng, None, 0.4, rng.uniform(0.25, 0.85)))
    clutter(rng, drawing, rng.integers(0, 3))
    place = Pose(rng, (0.42, 0.5), 0.08, 0.88, mirrored=True, wander=0.6)
    skin = color(rng, rng.uniform(0.04, 0.15), rng.uniform(0.3, 0.7), rng.uniform(0.65, 0.97))
    hair, ink = color(rng, rng.uniform(0.02, 0.15), 0.5, rng.uniform(0.08, 0.7)), gray(rng, 0.1)
    cut = rng.integers(3)
    if cut == 1:  # long hair
        drawing.polygon(place(disc(1.05, (0, -0.1))), hair)
        drawing.polygon(place(points((-1.05, 0), (1.05, 0), (1.0, 1.2), (-1.0, 1.2))), hair)
    drawing.polygon(place(disc(0.95)), skin)
    if cut:
        drawing.polygon(place(arc(-0.9 * pi, -0.1 * pi, 0.98)), hair)
    draw_parts(drawing, place, FACES[label], ink, gray(rng, 0.93))
    if rng.uniform() < 0.2:  # glasses
        for side in (-1, 1):
            drawing.line(place(arc(0, 2 * pi, 0.27, (0.36 * side, -0.15), 20)), hair, place.width(0.07))
    return drawing.finish()


def _eyes(size: float = 0.13, paint: int = 0, y: float = -0.15) -> list[Part]:
    return [Part(disc(size, (0.36 * side, y)), paint) for side in (-1, 1)]


def _bow(start: float, stop: float, width: float, height: float, y: float, line: float = 0.13, x: float = 0.0) -> Part:
    """Return a curved line between two angles in half turns."""
    return Part(arc(start * pi, stop * pi, (width, height), (x, y)), 0, line)


FACES: dict[str, list[Part]] = {  # 0 is ink, 1 white
    "happy": [*_eyes(), _bow(0.1, 0.9, 0.5, 0.42, 0.2)],
    "sad": [*_eyes(), _bow(-0.9, -0.1, 0.42, 0.34, 0.72)],
    "angry": [
        *_eyes(0.11),
        *(Part(points((0.62 * side, -0.55), (0.14 * side, -0.3)), 0, 0.12) for side in (-1, 1)),
        _bow(-0.85, -0.15, 0.38, 0.18, 0.62),
    ],
    "surprised": [*_eyes(0.23, 1, -0.18), *_eyes(0.1), Part(arc(0, 2 * pi, (0.22, 0.3), (0, 0.5), 20))],
    "asleep": [
        *(_bow(0, 1, 0.17, 0.12, -0.17, 0.1, 0.36 * side) for side in (-1, 1)),
        Part(points((-0.18, 0.5), (0.18, 0.5)), 0, 0.12),
    ],
    "winking": [_eyes()[0], Part(points((0.16, -0.15), (0.56, -0.15)), 0, 0.12), _bow(0.1, 0.9, 0.45, 0.36, 0.22)],
    "laughing": [
        *(_bow(-1, 0, 0.17, 0.15, -0.1, 0.1, 0.36 * side) for side in (-1, 1)),
        Part(arc(0, pi, (0.55, 0.55), (0, 0.2))),
        Part(points((-0.46, 0.2), (0.46, 0.2), (0.4, 0.35), (-0.4, 0.35)), 1),
    ],
}
