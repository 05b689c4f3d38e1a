"""Weather icons of many designs, as apps and stations show them: eight kinds."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Drawing, Floats, color, dark_and_light
from mingle_edge.demo.outlines import Part, arc, box, disc, draw_parts, points
from research.suite.pictures.shapes import Pose, any_surface, ray


def draw_weather(rng: np.random.Generator, label: str) -> Floats:
    """Draw an icon of `WEATHER` on a tile, colored or in one tone."""
    ground, main = any_surface(rng, dark=rng.uniform() < 0.5)
    drawing, place = Drawing(ground), Pose(rng, (0.3, 0.45), 0.1, 0.85)
    if rng.uniform() < 0.4:
        tile = dark_and_light(rng)[int(sum(main) < 1.5)]
        drawing.polygon(place(box(-1.1, -1.1, 1.1, 1.1)), tile)
    accent = color(rng, saturation=0.8, value=0.75) if rng.uniform() < 0.6 else main
    draw_parts(drawing, place, [*WEATHER[label], *_drawn_anew(rng, label)], main, accent)
    return drawing.finish()


def _cloud(lift: float = 0.0) -> list[Part]:
    puffs = ((-0.45, 0.15, 0.36), (0.0, -0.12, 0.48), (0.48, 0.12, 0.38))
    return [*(Part(disc(radius, (x, y - lift))) for x, y, radius in puffs), Part(box(-0.5, 0.05 - lift, 0.5, 0.5 - lift))]


def _gust(y: float, reach: float, size: float) -> Part:
    curl = arc(pi / 2, -0.8 * pi, (abs(size), size), (reach, y - size))
    return Part(np.concatenate([points((-0.95, y)), curl]), 0, 0.14)


def _drawn_anew(rng: np.random.Generator, label: str) -> list[Part]:
    """Draw what differs from icon to icon: rays and drops."""
    if label == "sun":
        count, start = int(rng.integers(7, 12)), rng.uniform(0, 1)
        return [Part(ray(start + 2 * pi * number / count, 0.6, 0.95), 0, 0.12) for number in range(count)]
    if label == "rain":
        across = np.linspace(-0.45, 0.5, int(rng.integers(3, 5)))
        return [Part(points((x, 0.35), (x - 0.18, 0.85)), 1, 0.12) for x in across]
    return []


_CRESCENT = (arc(-0.6 * pi, 0.95 * pi, 0.85, count=24), arc(0.8 * pi, -0.45 * pi, 0.68, (-0.22, -0.25), 24))
_FLAKES = ((-0.5, 0.45), (0.05, 0.45), (0.55, 0.45), (-0.22, 0.82), (0.3, 0.82))
_BOLT = points((0.1, 0.1), (-0.25, 0.6), (0.0, 0.6), (-0.12, 1.05), (0.32, 0.45), (0.06, 0.45), (0.3, 0.1))
_BANKS = ((-0.55, 0.0), (-0.18, 0.25), (0.18, 0.0), (0.55, 0.25))
WEATHER: dict[str, list[Part]] = {  # 0 is the icon's main color, 1 its accent
    "sun": [Part(disc(0.45))],
    "moon": [Part(np.concatenate(_CRESCENT))],
    "cloud": _cloud(),
    "rain": _cloud(0.35),
    "snow": [*_cloud(0.35), *(Part(disc(0.13, place), 1) for place in _FLAKES)],
    "thunderstorm": [*_cloud(0.35), Part(_BOLT, 1)],
    "fog": [Part(points((-0.9 + inset, y), (0.65 + inset, y)), 0, 0.16) for y, inset in _BANKS],
    "wind": [_gust(-0.15, 0.35, 0.3), _gust(0.15, 0.55, -0.32)],
}
