"""What moves along a street, seen from the side by a roadside camera by day or at dusk: six vehicles and pedestrians."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import SIDE, Color, Drawing, Floats, blend, by_class, color, smooth_noise
from mingle_edge.demo.outlines import arc, box, disc, points
from research.suite.pictures.shapes import Pose, gray


def draw_vehicle(rng: np.random.Generator, label: str) -> Floats:
    """Draw a street with one of `VEHICLES`, facing either way."""
    place = Pose(rng, (0.36, 0.46), 0.03, 0.85, mirrored=True)
    horizon, rows = float(place(points((0, 0.55)))[0, 1]), np.arange(SIDE) / SIDE
    ground = np.repeat((rows > horizon)[:, None], SIDE, axis=1)
    sky = color(rng, rng.uniform(0.5, 0.65), rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.9))
    drawing = Drawing(blend(0.75 * ground + 0.25 * smooth_noise(rng, 4), sky, gray(rng, rng.uniform(0.25, 0.45))))
    for _ in range(rng.integers(0, 4)):  # houses and trees behind
        left, wide, fill = rng.uniform(-0.2, 1), rng.uniform(0.1, 0.4), color(rng, saturation=0.3, value=rng.uniform(0.3, 0.8))
        drawing.polygon(box(left, rng.uniform(0, 0.5), left + wide, horizon + 0.02), fill)
    VEHICLES[label](rng, drawing, place, color(rng, saturation=rng.uniform(0.1, 0.9), value=rng.uniform(0.3, 0.9)))
    image: Floats = np.clip(drawing.finish() * rng.uniform(0.55, 1.1), 0, 1)
    return image


def _wheels(drawing: Drawing, place: Pose, *places: float, radius: float = 0.22) -> None:
    for x in places:
        drawing.polygon(place(disc(radius, (x, 0.6))), (0.07, 0.07, 0.08))
        drawing.polygon(place(disc(0.45 * radius, (x, 0.6))), (0.55, 0.55, 0.57))


def _glass(rng: np.random.Generator) -> Color:
    return color(rng, 0.58, 0.25, rng.uniform(0.25, 0.85))


def _car(rng: np.random.Generator, drawing: Drawing, place: Pose, paint: Color) -> None:
    roof = rng.uniform(-0.15, 0.0)
    body = points((-1, 0.2), (-0.6, 0.12), (-0.35, roof), (0.35, roof), (0.65, 0.15), (1, 0.25), (1, 0.6), (-1, 0.6))
    drawing.polygon(place(body), paint)
    glass = _glass(rng)
    drawing.polygon(place(points((-0.45, 0.15), (-0.28, roof + 0.06), (-0.04, roof + 0.06), (-0.04, 0.15))), glass)
    drawing.polygon(place(points((0.04, 0.15), (0.04, roof + 0.06), (0.3, roof + 0.06), (0.5, 0.15))), glass)
    _wheels(drawing, place, -0.58, 0.6)


def _van(rng: np.random.Generator, drawing: Drawing, place: Pose, paint: Color) -> None:
    body = points((-1, 0.2), (-0.8, 0.1), (-0.55, -0.4), (0.95, -0.4), (1, 0.6), (-1, 0.6))
    drawing.polygon(place(body), paint)
    drawing.polygon(place(points((-0.7, 0.08), (-0.5, -0.28), (-0.2, -0.28), (-0.2, 0.08))), _glass(rng))
    _wheels(drawing, place, -0.6, 0.62)


def _bus(rng: np.random.Generator, drawing: Drawing, place: Pose, paint: Color) -> None:
    drawing.polygon(place(box(-1.1, -0.5, 1.1, 0.6)), paint)
    glass = _glass(rng)
    for left in np.linspace(-1.02, 0.72, int(rng.integers(5, 7))):
        drawing.polygon(place(box(left, -0.35, left + 0.26, 0.05)), glass)
    _wheels(drawing, place, -0.65, 0.7, radius=0.19)


def _truck(rng: np.random.Generator, drawing: Drawing, place: Pose, paint: Color) -> None:
    load = color(rng, saturation=rng.uniform(0, 0.6), value=rng.uniform(0.4, 0.95))
    drawing.polygon(place(box(-0.4, -0.7, 1.1, 0.45)), load)
    drawing.polygon(place(points((-1.05, 0.1), (-0.95, -0.25), (-0.5, -0.25), (-0.5, 0.55), (-1.05, 0.55))), paint)
    drawing.polygon(place(points((-0.98, 0.08), (-0.9, -0.16), (-0.66, -0.16), (-0.66, 0.08))), _glass(rng))
    drawing.line(place(points((-0.5, 0.5), (1.05, 0.5))), (0.12, 0.12, 0.13), place.width(0.1))
    _wheels(drawing, place, -0.72, 0.4, 0.85, radius=0.19)


def _spoked(drawing: Drawing, place: Pose, x: float, width: float, radius: float) -> None:
    drawing.line(place(arc(0, 2 * pi, radius, (x, 0.8 - radius), 24)), (0.06, 0.06, 0.07), place.width(width))


def _bicycle(rng: np.random.Generator, drawing: Drawing, place: Pose, paint: Color) -> None:
    for x in (-0.6, 0.6):
        _spoked(drawing, place, x, 0.08, 0.42)
    frame = points((0.6, 0.38), (0.1, 0.4), (-0.42, -0.05), (0.25, -0.05), (0.1, 0.4))
    drawing.line(place(frame), paint, place.width(0.1))
    drawing.line(place(points((0.6, 0.38), (0.2, -0.2), (0.05, -0.2), (0.36, -0.2))), paint, place.width(0.09))
    drawing.line(place(points((-0.6, 0.38), (-0.38, -0.25), (-0.62, -0.28))), paint, place.width(0.09))


def _motorcycle(rng: np.random.Generator, drawing: Drawing, place: Pose, paint: Color) -> None:
    for x in (-0.65, 0.65):
        _spoked(drawing, place, x, 0.17, 0.3)
    drawing.polygon(place(points((-0.4, 0.1), (0.2, 0.0), (0.75, -0.1), (0.7, 0.12), (0.3, 0.6), (-0.25, 0.6))), paint)
    drawing.line(place(points((-0.65, 0.5), (-0.38, -0.2), (-0.2, -0.25))), (0.1, 0.1, 0.1), place.width(0.11))
    jacket = color(rng, saturation=0.4, value=rng.uniform(0.1, 0.5))
    drawing.line(place(points((0.25, 0.05), (0.1, -0.5), (-0.25, -0.2))), jacket, place.width(0.26))
    drawing.polygon(place(disc(0.2, (0.02, -0.78))), color(rng, saturation=0.6, value=0.6))


def _pedestrian(rng: np.random.Generator, drawing: Drawing, place: Pose, paint: Color) -> None:
    trousers, stride = color(rng, saturation=0.4, value=rng.uniform(0.1, 0.5)), rng.uniform(0.12, 0.35)
    for side in (-1, 1):
        drawing.line(place(points((0, 0.1), (stride * side, 0.85))), trousers, place.width(0.2))
    drawing.line(place(points((0, -0.5), (0.0, 0.15))), paint, place.width(0.4))
    for side in (-1, 1):
        drawing.line(place(points((0, -0.45), (1.1 * stride * side, 0.1))), paint, place.width(0.14))
    skin = color(rng, rng.uniform(0.04, 0.1), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.9))
    drawing.polygon(place(disc(0.19, (0, -0.75))), skin)


VEHICLES = by_class(_car, _van, _bus, _truck, _bicycle, _motorcycle, _pedestrian)
