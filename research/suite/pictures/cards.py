"""Corners of playing cards of many decks on a table: the four suits, one to three pips, turned any way up."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Drawing, Floats, color
from mingle_edge.demo.outlines import arc, box, disc, points
from research.suite.pictures.shapes import Pose, clutter, gray, surface

_RED = ("hearts", "diamonds")


def draw_card(rng: np.random.Generator, label: str) -> Floats:
    """Draw a part of a card of one suit of `SUITS`."""
    drawing = Drawing(surface(rng, None, 0.5, rng.uniform(0.15, 0.6)))
    clutter(rng, drawing, rng.integers(0, 3))
    card = Pose(rng, (0.46, 0.6), 0.3, 0.85)
    drawing.polygon(card(box(-0.75, -1, 0.75, 1)), gray(rng, rng.uniform(0.72, 0.95)))
    ink = color(rng, 0.99, 0.85, 0.75) if label in _RED else gray(rng, 0.1)
    if rng.uniform() < 0.4:  # decks with a color for every suit
        ink = color(rng, saturation=0.85, value=0.5)
    count = int(rng.integers(1, 4))
    size = {1: rng.uniform(0.4, 0.62), 2: 0.36, 3: 0.3}[count]
    flip = rng.uniform() < 0.3
    for y in np.linspace(-0.58, 0.58, count) if count > 1 else [rng.uniform(-0.2, 0.2)]:
        for outline in SUITS[label]:
            drawing.polygon(card(size * outline * (1, -1 if flip else 1) + (rng.normal(0, 0.03), y)), ink)
    return drawing.finish()


_STALK = points((-0.08, 0.2), (0.08, 0.2), (0.3, 0.95), (-0.3, 0.95))
_HEART = np.concatenate(
    [points((0, 0.95)), arc(0.85 * pi, 2 * pi, 0.5, (-0.46, -0.35)), arc(-pi, 0.15 * pi, 0.5, (0.46, -0.35))]
)
SUITS: dict[str, list[Floats]] = {
    "hearts": [_HEART],
    "diamonds": [points((0, -1), (0.7, 0), (0, 1), (-0.7, 0))],
    "clubs": [disc(0.42, (0, -0.5)), disc(0.42, (-0.48, 0.2)), disc(0.42, (0.48, 0.2)), _STALK],
    "spades": [0.92 * _HEART * (1, -1) - (0, 0.1), _STALK],
}
