"""Digits on seven-segment displays: glowing or liquid crystal, slanted, behind reflecting glass."""

from __future__ import annotations

import numpy as np

from mingle_edge.demo.canvas import Drawing, Floats, color
from mingle_edge.demo.digits import DIGITS
from mingle_edge.demo.outlines import disc, points
from research.suite.pictures.shapes import Pose, behind_glass, surface

_SEGMENTS = (  # top, upper left, upper right, middle, lower left, lower right, bottom
    points((-0.42, -0.95), (0.42, -0.95)),
    points((-0.55, -0.84), (-0.55, -0.1)),
    points((0.55, -0.84), (0.55, -0.1)),
    points((-0.42, 0), (0.42, 0)),
    points((-0.55, 0.1), (-0.55, 0.84)),
    points((0.55, 0.1), (0.55, 0.84)),
    points((-0.42, 0.95), (0.42, 0.95)),
)
_LIT = ("012456", "25", "02346", "02356", "1235", "01356", "013456", "025", "0123456", "012356")


def draw_display(rng: np.random.Generator, label: str) -> Floats:
    """Draw a digit by its name, with parts of its neighbors, the segments that are off showing faintly."""
    glowing = rng.uniform() < 0.6
    if glowing:
        hue = rng.choice([0.0, 0.08, 0.33, 0.5, 0.6])
        panel, lit = surface(rng, hue, 0.4, 0.14), np.asarray(color(rng, hue, 0.75, 0.92))
    else:
        panel, lit = surface(rng, rng.uniform(0.15, 0.5), 0.25, 0.62), np.asarray(color(rng, 0.5, 0.2, 0.16))
    ghost = rng.uniform(0.0, 0.28)
    off = ghost * lit + (1 - ghost) * panel.mean((0, 1))
    drawing, place = Drawing(panel), Pose(rng, (0.3, 0.42), 0.08, 0.75, wander=0.3)
    slant, width = rng.uniform(-0.05, 0.25), place.width(rng.uniform(0.16, 0.28))
    shown = [(DIGITS.index(label), 0.0)]
    shown += [(int(rng.integers(10)), side * 1.75) for side in (-1, 1) if rng.uniform() < 0.6]
    for digit, shift in shown:
        for number, segment in enumerate(_SEGMENTS):
            sheared = segment + np.stack([-slant * segment[:, 1] + shift, np.zeros(2)], axis=1)
            fill = lit if str(number) in _LIT[digit] else off
            drawing.line(place(sheared), (fill[0], fill[1], fill[2]), width)
    if rng.uniform() < 0.4:
        drawing.polygon(place(disc(0.14, (0.88, 0.98))), (lit[0], lit[1], lit[2]))
    return behind_glass(rng, drawing.finish(), 0.35, 0.9)
