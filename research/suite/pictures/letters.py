"""Letters written by hand with a pen, a brush or chalk: ten capitals, and the same ten as minuscules."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Drawing, Floats
from mingle_edge.demo.outlines import arc, points
from research.suite.pictures.shapes import Pose, any_surface

Strokes = list[Floats]  # open lines [n, 2] in -1 to 1, y down

_BOW = [
    points((-0.5, -0.9), (-0.5, 0.9)),
    np.concatenate([points((-0.5, -0.9)), arc(-pi / 2, pi / 2, (0.55, 0.43), (0, -0.47)), points((-0.5, -0.04))]),
]
CAPITALS: dict[str, Strokes] = {
    "A": [points((-0.6, 0.9), (0, -0.9), (0.6, 0.9)), points((-0.35, 0.25), (0.35, 0.25))],
    "B": [
        *_BOW,
        np.concatenate([points((-0.5, -0.04)), arc(-pi / 2, pi / 2, (0.62, 0.47), (0, 0.43)), points((-0.5, 0.9))]),
    ],
    "D": [
        points((-0.5, -0.9), (-0.5, 0.9)),
        np.concatenate([points((-0.5, -0.9)), arc(-pi / 2, pi / 2, (0.75, 0.9), (-0.15, 0)), points((-0.5, 0.9))]),
    ],
    "E": [points((0.5, -0.9), (-0.5, -0.9), (-0.5, 0.9), (0.5, 0.9)), points((-0.5, 0), (0.35, 0))],
    "G": [np.concatenate([arc(-0.7, -2 * pi + 0.5, (0.7, 0.9)), points((0.6, 0.1), (0.1, 0.1))])],
    "H": [points((-0.55, -0.9), (-0.55, 0.9)), points((0.55, -0.9), (0.55, 0.9)), points((-0.55, 0), (0.55, 0))],
    "N": [points((-0.55, 0.9), (-0.55, -0.9), (0.55, 0.9), (0.55, -0.9))],
    "Q": [arc(0, 2 * pi, (0.7, 0.85), (0, -0.05), 24), points((0.2, 0.4), (0.75, 0.95))],
    "R": [*_BOW, points((-0.1, -0.04), (0.6, 0.9))],
    "T": [points((-0.65, -0.9), (0.65, -0.9)), points((0, -0.9), (0, 0.9))],
}
_ARCH = np.concatenate([arc(-pi, 0, (0.45, 0.5), (0, 0.3)), points((0.45, 0.85))])
MINUSCULES: dict[str, Strokes] = {
    "a": [arc(0, 2 * pi, (0.5, 0.5), (-0.05, 0.35), 22), points((0.45, -0.15), (0.45, 0.6), (0.65, 0.85))],
    "b": [points((-0.45, -0.95), (-0.45, 0.85)), arc(0, 2 * pi, (0.5, 0.5), (0.05, 0.35), 22)],
    "d": [points((0.45, -0.95), (0.45, 0.85)), arc(0, 2 * pi, (0.5, 0.5), (-0.05, 0.35), 22)],
    "e": [np.concatenate([points((-0.5, 0.2), (0.5, 0.2)), arc(0, -2 * pi + 0.7, (0.52, 0.58), (0, 0.25), 22)])],
    "g": [
        arc(0, 2 * pi, (0.48, 0.45), (-0.05, -0.2), 22),
        np.concatenate([points((0.45, -0.65), (0.45, 0.5)), arc(0, 0.85 * pi, (0.48, 0.42), (-0.03, 0.5))]),
    ],
    "h": [points((-0.45, -0.95), (-0.45, 0.85)), _ARCH],
    "n": [points((-0.45, -0.25), (-0.45, 0.85)), _ARCH],
    "q": [arc(0, 2 * pi, (0.48, 0.45), (-0.05, -0.2), 22), points((0.45, -0.65), (0.45, 0.85), (0.75, 0.7))],
    "r": [points((-0.3, -0.25), (-0.3, 0.85)), arc(-pi, -0.2 * pi, (0.4, 0.45), (0.1, 0.2))],
    "t": [
        np.concatenate([points((0, -0.85), (0, 0.5)), arc(pi, 0.3 * pi, (0.3, 0.35), (0.3, 0.5), 8)]),
        points((-0.4, -0.3), (0.45, -0.3)),
    ],
}


def draw_letter(rng: np.random.Generator, label: str) -> Floats:
    """Draw a letter of `CAPITALS` or `MINUSCULES`, slanted and unsteady, now and then with a part of a neighbor."""
    paper, ink = any_surface(rng, dark=rng.uniform() < 0.35)
    drawing, place = Drawing(paper), Pose(rng, (0.3, 0.44), 0.15, 0.7, wander=0.4)
    slant, width = rng.normal(0, 0.18), place.width(rng.uniform(0.1, 0.26))
    known = CAPITALS if label in CAPITALS else MINUSCULES
    written = [(label, 0.0)]
    if rng.uniform() < 0.4:
        written.append((str(rng.choice(list(known))), float(rng.choice([-1, 1])) * rng.uniform(1.75, 2.1)))
    for letter, shift in written:
        for stroke in known[letter]:
            unsteady = stroke + rng.normal(0, 0.04, 2) + _tremor(rng, len(stroke))
            sheared = unsteady + np.stack([-slant * unsteady[:, 1] + shift, np.zeros(len(stroke))], axis=1)
            drawing.line(place(sheared), ink, width)
    return drawing.finish()


def _tremor(rng: np.random.Generator, count: int) -> Floats:
    """Draw a smooth displacement `[count, 2]` along a stroke."""
    knots, along = rng.normal(0, 0.07, (4, 2)), np.linspace(0, 3, count)
    return np.stack([np.interp(along, range(4), knots[:, axis]) for axis in range(2)], axis=1)
