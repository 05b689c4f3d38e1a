"""Industrial warning signs: yellow triangles with a black symbol on the walls and machines of a plant."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Drawing, Floats, color, smooth_noise
from mingle_edge.demo.outlines import Part, arc, box, disc, draw_parts, points, regular
from research.suite.pictures.shapes import Pose, clutter, gray, ray, surface


def draw_hazard(rng: np.random.Generator, label: str) -> Floats:
    """Draw a warning sign of `HAZARDS`, worn and partly in the shade."""
    drawing = Drawing(surface(rng, None, 0.15, rng.uniform(0.25, 0.8)))
    clutter(rng, drawing, rng.integers(0, 4), 0.2)
    for _ in range(rng.integers(0, 3)):  # pipes
        across = rng.uniform(0, 1, 2)
        drawing.line(points((-0.1, across[0]), (1.1, across[1])), gray(rng, rng.uniform(0.3, 0.7)), rng.uniform(0.03, 0.1))
    place = Pose(rng, (0.42, 0.54), 0.1, 0.85)
    ink, yellow = color(rng, 0.6, 0.2, 0.1), color(rng, 0.14, 0.85, 0.88)
    drawing.polygon(place(regular(3, -pi / 2, center=(0, 0.2))), ink)
    drawing.polygon(place(regular(3, -pi / 2, 0.84, (0, 0.2))), yellow)
    draw_parts(drawing, place, HAZARDS[label], ink, yellow)
    image = drawing.finish()
    image = image * (1 - rng.uniform(0, 0.5) * (smooth_noise(rng, 2) > 0.6)[:, :, None])
    wear = np.clip(rng.uniform(0, 5) * (smooth_noise(rng, 7) - 0.8), 0, 1)[:, :, None]
    worn: Floats = image * (1 - wear) + 0.55 * wear
    return worn


def _both(outline: Floats) -> list[Floats]:
    """Return an outline and its mirror image."""
    return [outline * (side, 1) for side in (-1, 1)]


def _waves() -> list[Part]:
    along = np.linspace(0, 1, 12)
    waves = [np.stack([x + 0.07 * np.sin(2 * pi * along), 0.4 - 0.6 * along], axis=1) for x in (-0.22, 0.0, 0.22)]
    return [Part(wave, 0, 0.08) for wave in waves]


def _blades() -> list[Part]:
    starts, center = (-2 * pi / 3, 0.0, 2 * pi / 3), (0.0, 0.2)
    sides = [(arc(start, start + pi / 3, 0.15, center, 5), arc(start + pi / 3, start, 0.46, center, 8)) for start in starts]
    return [*(Part(np.concatenate(pair)) for pair in sides), Part(disc(0.09, center))]


_BOLT = points((0.1, -0.45), (-0.22, 0.22), (0.02, 0.22), (-0.12, 0.62), (0.24, 0.02), (0.02, 0.02), (0.22, -0.45))
_FLAME = points((0, -0.5), (0.14, -0.12), (0.24, -0.2), (0.3, 0.25), (0.18, 0.48), (-0.18, 0.48), (-0.3, 0.2), (-0.12, -0.05))
_HEART_OF_FLAME = points((0.02, 0.1), (0.13, 0.3), (0.08, 0.42), (-0.08, 0.42), (-0.12, 0.28))
_HORSESHOE = np.concatenate([points((-0.26, 0.55)), arc(-pi, 0, 0.26, (0, 0.1)), points((0.26, 0.55))])
HAZARDS: dict[str, list[Part]] = {  # 0 is ink, 1 yellow
    "high voltage": [Part(_BOLT)],
    "fire": [Part(_FLAME), Part(_HEART_OF_FLAME, 1), Part(points((-0.4, 0.58), (0.4, 0.58)), 0, 0.1)],
    "poison": [
        *(Part(bone, 0, 0.1) for bone in _both(points((0.45, 0.28), (-0.45, 0.6)))),
        *(Part(disc(0.27, (0, -0.05))), Part(box(-0.14, 0.1, 0.14, 0.34))),
        *(Part(eye, 1) for eye in _both(disc(0.08, (0.12, -0.04)))),
    ],
    "radiation": _blades(),
    "laser beam": [
        *(Part(np.add(ray(angle, 0.1, 0.3), (-0.08, 0.25)), 0, 0.06) for angle in np.arange(8) * pi / 4),
        *(Part(disc(0.13, (-0.08, 0.25))), Part(points((-0.08, 0.25), (0.58, 0.25)), 0, 0.1)),
    ],
    "hot surface": [Part(points((-0.45, 0.55), (0.45, 0.55)), 0, 0.12), *_waves()],
    "magnetic field": [
        Part(_HORSESHOE, 0, 0.2),
        *(Part(points((0.26 * side - 0.11, 0.4), (0.26 * side + 0.11, 0.4)), 1, 0.07) for side in (-1, 1)),
    ],
    "general danger": [
        Part(points((-0.11, -0.45), (0.11, -0.45), (0.06, 0.25), (-0.06, 0.25))),
        Part(disc(0.11, (0, 0.47))),
    ],
}
