"""Cartoon faces with seven expressions, any complexion, hair or none, glasses now and then."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Color, Drawing, Floats, color
from research.suite.pictures.shapes import Pose, arc, clutter, disc, gray, points, surface

Expression = Callable[[Drawing, Pose, Color, Color], None]  # drawing, pose, ink, white


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
    FACES[label](drawing, place, ink, gray(rng, 0.93))
    if rng.uniform() < 0.2:  # glasses
        for side in (-1, 1):
            drawing.line(place(arc(0, 2 * pi, 0.27, (0.36 * side, -0.15), 20)), hair, place.width(0.07))
    return drawing.finish()


def _eyes(drawing: Drawing, place: Pose, ink: Color, size: float = 0.13, sides: tuple[int, ...] = (-1, 1)) -> None:
    for side in sides:
        drawing.polygon(place(disc(size, (0.36 * side, -0.15))), ink)


def _lids(drawing: Drawing, place: Pose, ink: Color, up: bool, sides: tuple[int, ...] = (-1, 1)) -> None:
    for side in sides:
        bow = arc(-pi, 0, (0.17, 0.15), (0.36 * side, -0.1)) if up else arc(0, pi, (0.17, 0.12), (0.36 * side, -0.17))
        drawing.line(place(bow), ink, place.width(0.1))


def _happy(drawing: Drawing, place: Pose, ink: Color, white: Color) -> None:
    _eyes(drawing, place, ink)
    drawing.line(place(arc(0.1 * pi, 0.9 * pi, (0.5, 0.42), (0, 0.2))), ink, place.width(0.13))


def _sad(drawing: Drawing, place: Pose, ink: Color, white: Color) -> None:
    _eyes(drawing, place, ink)
    drawing.line(place(arc(-0.9 * pi, -0.1 * pi, (0.42, 0.34), (0, 0.72))), ink, place.width(0.13))


def _angry(drawing: Drawing, place: Pose, ink: Color, white: Color) -> None:
    _eyes(drawing, place, ink, 0.11)
    for side in (-1, 1):
        drawing.line(place(points((0.62 * side, -0.55), (0.14 * side, -0.3))), ink, place.width(0.12))
    drawing.line(place(arc(-0.85 * pi, -0.15 * pi, (0.38, 0.18), (0, 0.62))), ink, place.width(0.13))


def _surprised(drawing: Drawing, place: Pose, ink: Color, white: Color) -> None:
    for side in (-1, 1):
        drawing.polygon(place(disc(0.23, (0.36 * side, -0.18))), white)
    _eyes(drawing, place, ink, 0.1)
    drawing.polygon(place(arc(0, 2 * pi, (0.22, 0.3), (0, 0.5), 20)), ink)


def _asleep(drawing: Drawing, place: Pose, ink: Color, white: Color) -> None:
    _lids(drawing, place, ink, up=False)
    drawing.line(place(points((-0.18, 0.5), (0.18, 0.5))), ink, place.width(0.12))


def _winking(drawing: Drawing, place: Pose, ink: Color, white: Color) -> None:
    _eyes(drawing, place, ink, sides=(-1,))
    drawing.line(place(points((0.16, -0.15), (0.56, -0.15))), ink, place.width(0.12))
    drawing.line(place(arc(0.1 * pi, 0.9 * pi, (0.45, 0.36), (0, 0.22))), ink, place.width(0.13))


def _laughing(drawing: Drawing, place: Pose, ink: Color, white: Color) -> None:
    _lids(drawing, place, ink, up=True)
    drawing.polygon(place(arc(0, pi, (0.55, 0.55), (0, 0.2))), ink)
    drawing.polygon(place(points((-0.46, 0.2), (0.46, 0.2), (0.4, 0.35), (-0.4, 0.35))), white)


FACES: dict[str, Expression] = {
    "happy": _happy,
    "sad": _sad,
    "angry": _angry,
    "surprised": _surprised,
    "asleep": _asleep,
    "winking": _winking,
    "laughing": _laughing,
}
