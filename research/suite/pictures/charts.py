"""Charts as a page shows them, photographed: eight kinds in any colors, with axes, grids and captions."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Color, Drawing, Floats, blend, by_class, color, dark_and_light, smooth_noise
from mingle_edge.demo.outlines import arc, box, disc, points, regular
from research.suite.pictures.shapes import Pose, closed


def draw_chart(rng: np.random.Generator, label: str) -> Floats:
    """Draw a page with one chart of `CHARTS`, on light paper or a dark screen."""
    ink, paper = dark_and_light(rng, swapped=0.3)
    faint = (0.85 * paper[0], 0.85 * paper[1], 0.85 * paper[2])
    drawing, place = Drawing(blend(smooth_noise(rng, 3), faint, paper)), Pose(rng, (0.36, 0.46), 0.07, 0.85)
    if rng.uniform() < 0.5:  # a caption
        drawing.line(place(points((-0.7, -1.05), (rng.uniform(-0.2, 0.7), -1.05))), ink, place.width(0.09))
    CHARTS[label](rng, drawing, place, ink, paper)
    return drawing.finish()


def _fill(rng: np.random.Generator) -> Color:
    return color(rng, saturation=rng.uniform(0.4, 0.9), value=rng.uniform(0.45, 0.85))


def _axes(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color) -> None:
    if rng.uniform() < 0.5:  # grid
        for y in np.linspace(-0.6, 0.6, 4):
            drawing.line(place(points((-0.85, y), (0.9, y))), (0.6, 0.6, 0.6), place.width(0.03))
    drawing.line(place(points((-0.85, -0.85), (-0.85, 0.85), (0.9, 0.85))), ink, place.width(0.07))


def _series(rng: np.random.Generator, count: int) -> Floats:
    """Draw a wandering line `[count, 2]` inside the axes."""
    walk = np.cumsum(rng.normal(0, 1, count))
    walk = (walk - walk.min()) / max(float(np.ptp(walk)), 1e-6)
    return np.stack([np.linspace(-0.8, 0.85, count), 0.65 - rng.uniform(0.9, 1.3) * walk], axis=1)


def _bar(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    _axes(rng, drawing, place, ink)
    count, fill = int(rng.integers(3, 7)), _fill(rng)
    for left in np.linspace(-0.75, 0.9, count + 1)[:-1]:
        fill = _fill(rng) if rng.uniform() < 0.3 else fill
        drawing.polygon(place(box(left, rng.uniform(-0.7, 0.5), left + 1.15 / count, 0.82)), fill)


def _horizontal_bar(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    _axes(rng, drawing, place, ink)
    count, fill = int(rng.integers(3, 7)), _fill(rng)
    for top in np.linspace(-0.8, 0.8, count + 1)[:-1]:
        fill = _fill(rng) if rng.uniform() < 0.3 else fill
        drawing.polygon(place(box(-0.82, top, rng.uniform(-0.5, 0.85), top + 1.15 / count)), fill)


def _line(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    _axes(rng, drawing, place, ink)
    for _ in range(rng.integers(1, 3)):
        drawing.line(place(_series(rng, int(rng.integers(5, 11)))), _fill(rng), place.width(0.1))


def _area(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    _axes(rng, drawing, place, ink)
    series = _series(rng, int(rng.integers(5, 11)))
    drawing.polygon(place(np.concatenate([series, points((0.85, 0.82), (-0.8, 0.82))])), _fill(rng))


def _scatter(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    _axes(rng, drawing, place, ink)
    slope, fill = rng.uniform(-0.7, 0.7), _fill(rng)
    for x in rng.uniform(-0.7, 0.8, rng.integers(9, 20)):
        y = float(np.clip(-slope * x + rng.normal(0, 0.25), -0.75, 0.7))
        drawing.polygon(place(disc(0.085, (x, y))), fill)


def _wedges(rng: np.random.Generator, drawing: Drawing, place: Pose, hole: float, paper: Color) -> None:
    borders = np.cumsum(rng.dirichlet(np.full(int(rng.integers(3, 6)), 4.0))) * 2 * pi
    start, offset = 0.0, rng.uniform(0, 2 * pi)
    for stop in borders:
        outline = np.concatenate([points((0, 0)), arc(offset + start, offset + stop, 0.9, count=16)])
        drawing.polygon(place(outline), _fill(rng))
        start = stop
    if hole:
        drawing.polygon(place(disc(hole)), paper)


def _pie(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    _wedges(rng, drawing, place, 0.0, paper)


def _ring(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    _wedges(rng, drawing, place, rng.uniform(0.4, 0.6), paper)


def _radar(rng: np.random.Generator, drawing: Drawing, place: Pose, ink: Color, paper: Color) -> None:
    corners = int(rng.integers(5, 8))
    outline = regular(corners, -pi / 2)
    drawing.polygon(place(outline * rng.uniform(0.35, 0.95, (corners, 1))), _fill(rng))
    for radius in (0.5, 0.95):
        drawing.line(place(closed(radius * outline)), ink, place.width(0.05))
    for corner in outline:
        drawing.line(place(np.stack([np.zeros(2), 0.95 * corner])), ink, place.width(0.04))


CHARTS = by_class(_bar, _horizontal_bar, _line, _area, _scatter, _pie, _ring, _radar)
