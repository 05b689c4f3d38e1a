"""The road ahead from the driver's seat, in any weather: where it leads."""

from __future__ import annotations

import numpy as np

from mingle_edge.demo.canvas import SIDE, Color, Drawing, Floats, blend, by_class, color, smooth_noise
from mingle_edge.demo.outlines import points
from research.suite.pictures.shapes import gray


class _View:
    """A camera above the road: places on the ground (across in road widths, distance in 0 to 1) as picture points."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.horizon, self.middle = rng.uniform(0.22, 0.42), 0.5 + rng.normal(0, 0.06)
        self.width, self.lean = rng.uniform(0.7, 1.1), rng.normal(0, 0.05)

    def __call__(self, across: Floats, distance: Floats, bend: float = 0.0) -> Floats:
        """Return points `[n, 2]`; the road's middle moves by `bend` picture sides at the horizon."""
        scale = (1 - distance) ** 1.6 + 0.06
        x = self.middle + (self.lean + bend * distance) * distance + self.width * scale * across
        return np.stack([x, 1.05 - (1.05 - self.horizon) * distance], axis=1)


def draw_road(rng: np.random.Generator, label: str) -> Floats:
    """Draw a road of one kind of `ROADS` between fields, with haze."""
    view = _View(rng)
    ground = np.repeat((np.arange(SIDE) / SIDE > view.horizon)[:, None], SIDE, axis=1).astype(float)
    land = color(rng, rng.uniform(0.08, 0.36), rng.uniform(0.2, 0.5), rng.uniform(0.3, 0.6))
    sky = color(rng, rng.uniform(0.52, 0.64), rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.95))
    drawing = Drawing(blend(np.clip(ground + 0.25 * (smooth_noise(rng, 5) - 0.5), 0, 1), sky, land))
    for x in rng.uniform(0, 1, rng.integers(0, 6)):  # trees at the horizon
        size = rng.uniform(0.04, 0.14)
        drawing.line(points((x, view.horizon - size), (x, view.horizon + 0.03)), color(rng, 0.3, 0.45, 0.3), size)
    asphalt = gray(rng, rng.uniform(0.2, 0.5))
    paint = color(rng, rng.choice([0.14, 0.6]), rng.choice([0.05, 0.6]), 0.9)
    ROADS[label](rng, view, drawing, asphalt, paint)
    haze = rng.uniform(0, 0.4)
    return drawing.finish() * (1 - haze) + haze * rng.uniform(0.4, 0.8)


def _lane(rng: np.random.Generator, view: _View, drawing: Drawing, asphalt: Color, paint: Color, bend: float) -> None:
    far = np.linspace(0, 1, 14)
    left, right = view(np.full(14, -0.5), far, bend), view(np.full(14, 0.5), far, bend)
    drawing.polygon(np.concatenate([left, right[::-1]]), asphalt)
    if rng.uniform() < 0.6:
        for edge in (-0.46, 0.46):
            drawing.line(view(np.full(14, edge), far, bend), paint, 0.022)
    for start in np.arange(rng.uniform(0, 0.1), 0.8, 0.2):  # the dashed middle line
        drawing.line(view(np.zeros(3), np.linspace(start, start + 0.1, 3), bend), paint, 0.045 * (1 - start))


def _straight_road(rng: np.random.Generator, view: _View, drawing: Drawing, asphalt: Color, paint: Color) -> None:
    _lane(rng, view, drawing, asphalt, paint, rng.uniform(-0.06, 0.06))


def _left_bend(rng: np.random.Generator, view: _View, drawing: Drawing, asphalt: Color, paint: Color) -> None:
    _lane(rng, view, drawing, asphalt, paint, rng.uniform(-0.55, -0.22))


def _right_bend(rng: np.random.Generator, view: _View, drawing: Drawing, asphalt: Color, paint: Color) -> None:
    _lane(rng, view, drawing, asphalt, paint, rng.uniform(0.22, 0.55))


def _fork(rng: np.random.Generator, view: _View, drawing: Drawing, asphalt: Color, paint: Color) -> None:
    for bend in (rng.uniform(-0.5, -0.3), rng.uniform(0.3, 0.5)):
        _lane(rng, view, drawing, asphalt, paint, bend)


def _crossroads(rng: np.random.Generator, view: _View, drawing: Drawing, asphalt: Color, paint: Color) -> None:
    near = rng.uniform(0.3, 0.55)
    ends = view(np.zeros(2), np.asarray([near, near + rng.uniform(0.16, 0.24)]))[:, 1]
    tilt = rng.normal(0, 0.03)
    drawing.polygon(
        points((-0.1, ends[0] + tilt), (1.1, ends[0] - tilt), (1.1, ends[1] - tilt), (-0.1, ends[1] + tilt)), asphalt
    )
    _lane(rng, view, drawing, asphalt, paint, rng.uniform(-0.06, 0.06))


def _zebra_crossing(rng: np.random.Generator, view: _View, drawing: Drawing, asphalt: Color, paint: Color) -> None:
    _lane(rng, view, drawing, asphalt, paint, rng.uniform(-0.1, 0.1))
    near = rng.uniform(0.1, 0.4)
    for across in np.linspace(-0.45, 0.38, int(rng.integers(5, 7))):
        ends = np.asarray([near, near, near + 0.17, near + 0.17])
        drawing.polygon(view(across + np.asarray([0, 0.09, 0.09, 0]), ends), paint)


ROADS = by_class(_straight_road, _left_bend, _right_bend, _fork, _crossroads, _zebra_crossing)
