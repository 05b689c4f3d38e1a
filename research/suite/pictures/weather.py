"""Weather icons of many designs, as apps and stations show them: eight kinds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Color, Drawing, Floats, color, dark_and_light
from research.suite.pictures.shapes import Pose, any_surface, arc, box, disc, points, ray

Icon = Callable[[np.random.Generator, Drawing, Pose, Color, Color], None]  # generator, drawing, pose, main, accent


def draw_weather(rng: np.random.Generator, label: str) -> Floats:
    """Draw an icon of `WEATHER` on a tile, colored or in one tone."""
    ground, main = any_surface(rng, dark=rng.uniform() < 0.5)
    drawing, place = Drawing(ground), Pose(rng, (0.3, 0.45), 0.1, 0.85)
    if rng.uniform() < 0.4:
        tile = dark_and_light(rng)[int(sum(main) < 1.5)]
        drawing.polygon(place(box(-1.1, -1.1, 1.1, 1.1)), tile)
    accent = color(rng, saturation=0.8, value=0.75) if rng.uniform() < 0.6 else main
    WEATHER[label](rng, drawing, place, main, accent)
    return drawing.finish()


def _puff(drawing: Drawing, place: Pose, fill: Color, lift: float = 0.0) -> None:
    for x, y, radius in ((-0.45, 0.15, 0.36), (0.0, -0.12, 0.48), (0.48, 0.12, 0.38)):
        drawing.polygon(place(disc(radius, (x, y - lift))), fill)
    drawing.polygon(place(box(-0.5, 0.05 - lift, 0.5, 0.5 - lift)), fill)


def _sun(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    drawing.polygon(place(disc(0.45)), main)
    count, start = int(rng.integers(7, 12)), rng.uniform(0, 1)
    for number in range(count):
        drawing.line(place(ray(start + 2 * pi * number / count, 0.6, 0.95)), main, place.width(0.12))


def _moon(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    outer, inner = arc(-0.6 * pi, 0.95 * pi, 0.85, count=24), arc(0.8 * pi, -0.45 * pi, 0.68, (-0.22, -0.25), 24)
    drawing.polygon(place(np.concatenate([outer, inner])), main)


def _cloud(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    _puff(drawing, place, main)


def _rain(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    _puff(drawing, place, main, 0.35)
    for x in np.linspace(-0.45, 0.5, int(rng.integers(3, 5))):
        drawing.line(place(points((x, 0.35), (x - 0.18, 0.85))), accent, place.width(0.12))


def _snow(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    _puff(drawing, place, main, 0.35)
    for x, y in ((-0.5, 0.45), (0.05, 0.45), (0.55, 0.45), (-0.22, 0.82), (0.3, 0.82)):
        drawing.polygon(place(disc(0.13, (x, y))), accent)


def _storm(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    _puff(drawing, place, main, 0.35)
    bolt = points((0.1, 0.1), (-0.25, 0.6), (0.0, 0.6), (-0.12, 1.05), (0.32, 0.45), (0.06, 0.45), (0.3, 0.1))
    drawing.polygon(place(bolt), accent)


def _fog(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    for number, y in enumerate((-0.55, -0.18, 0.18, 0.55)):
        inset = 0.25 * (number % 2)
        drawing.line(place(points((-0.9 + inset, y), (0.65 + inset, y))), main, place.width(0.16))


def _wind(rng: np.random.Generator, drawing: Drawing, place: Pose, main: Color, accent: Color) -> None:
    for y, reach, size in ((-0.15, 0.35, 0.3), (0.15, 0.55, -0.32)):
        curl = arc(pi / 2, -0.8 * pi, (abs(size), size), (reach, y - size))
        drawing.line(place(np.concatenate([points((-0.95, y)), curl])), main, place.width(0.14))


WEATHER: dict[str, Icon] = {
    "sun": _sun,
    "moon": _moon,
    "cloud": _cloud,
    "rain": _rain,
    "snow": _snow,
    "thunderstorm": _storm,
    "fog": _fog,
    "wind": _wind,
}
