"""Industrial warning signs: yellow triangles with a black symbol on the walls and machines of a plant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Color, Drawing, Floats, color, smooth_noise
from research.suite.pictures.shapes import Pose, arc, box, clutter, disc, gray, points, ray, regular, surface

Symbol = Callable[[Drawing, Pose, Color, Color], None]  # drawing, pose of the symbol, ink, yellow


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
    HAZARDS[label](drawing, place, ink, yellow)
    image = drawing.finish()
    image = image * (1 - rng.uniform(0, 0.5) * (smooth_noise(rng, 2) > 0.6)[:, :, None])
    wear = np.clip(rng.uniform(0, 5) * (smooth_noise(rng, 7) - 0.8), 0, 1)[:, :, None]
    worn: Floats = image * (1 - wear) + 0.55 * wear
    return worn


def _voltage(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    bolt = points((0.1, -0.45), (-0.22, 0.22), (0.02, 0.22), (-0.12, 0.62), (0.24, 0.02), (0.02, 0.02), (0.22, -0.45))
    drawing.polygon(place(bolt), ink)


def _fire(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    flame = points(
        (0, -0.5), (0.14, -0.12), (0.24, -0.2), (0.3, 0.25), (0.18, 0.48), (-0.18, 0.48), (-0.3, 0.2), (-0.12, -0.05)
    )
    drawing.polygon(place(flame), ink)
    drawing.polygon(place(points((0.02, 0.1), (0.13, 0.3), (0.08, 0.42), (-0.08, 0.42), (-0.12, 0.28))), yellow)
    drawing.line(place(points((-0.4, 0.58), (0.4, 0.58))), ink, place.width(0.1))


def _poison(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    for side in (-1, 1):
        drawing.line(place(points((-0.45 * side, 0.28), (0.45 * side, 0.6))), ink, place.width(0.1))
    drawing.polygon(place(disc(0.27, (0, -0.05))), ink)
    drawing.polygon(place(box(-0.14, 0.1, 0.14, 0.34)), ink)
    for side in (-1, 1):
        drawing.polygon(place(disc(0.08, (0.12 * side, -0.04))), yellow)


def _radiation(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    center = (0.0, 0.2)
    for start in (-2 * pi / 3, 0.0, 2 * pi / 3):
        blade = np.concatenate([arc(start, start + pi / 3, 0.15, center, 5), arc(start + pi / 3, start, 0.46, center, 8)])
        drawing.polygon(place(blade), ink)
    drawing.polygon(place(disc(0.09, center)), ink)


def _laser(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    for angle in np.arange(8) * pi / 4:
        drawing.line(place(np.add(ray(angle, 0.1, 0.3), (-0.08, 0.25))), ink, place.width(0.06))
    drawing.polygon(place(disc(0.13, (-0.08, 0.25))), ink)
    drawing.line(place(points((-0.08, 0.25), (0.58, 0.25))), ink, place.width(0.1))


def _hot(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    drawing.line(place(points((-0.45, 0.55), (0.45, 0.55))), ink, place.width(0.12))
    for x in (-0.22, 0.0, 0.22):
        along = np.linspace(0, 1, 12)
        wave = np.stack([x + 0.07 * np.sin(2 * pi * along), 0.4 - 0.6 * along], axis=1)
        drawing.line(place(wave), ink, place.width(0.08))


def _magnet(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    drawing.line(
        place(np.concatenate([points((-0.26, 0.55)), arc(-pi, 0, 0.26, (0, 0.1)), points((0.26, 0.55))])), ink, place.width(0.2)
    )
    for side in (-1, 1):
        drawing.line(place(points((0.26 * side - 0.11, 0.4), (0.26 * side + 0.11, 0.4))), yellow, place.width(0.07))


def _danger(drawing: Drawing, place: Pose, ink: Color, yellow: Color) -> None:
    drawing.polygon(place(points((-0.11, -0.45), (0.11, -0.45), (0.06, 0.25), (-0.06, 0.25))), ink)
    drawing.polygon(place(disc(0.11, (0, 0.47))), ink)


HAZARDS: dict[str, Symbol] = {
    "high voltage": _voltage,
    "fire": _fire,
    "poison": _poison,
    "radiation": _radiation,
    "laser beam": _laser,
    "hot surface": _hot,
    "magnetic field": _magnet,
    "general danger": _danger,
}
