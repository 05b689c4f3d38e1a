"""Land use from above: eight kinds of land, in any season and light."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mingle_edge.demo.canvas import SIDE, Color, Drawing, Floats, blend, by_class, color, smooth_noise
from mingle_edge.demo.outlines import box, rotation

_SQUARE = box(-1, -1, 1, 1)


def draw_land(rng: np.random.Generator, label: str) -> Floats:
    """Draw a patch `[SIDE, SIDE, 3]` of one land use of `LANDS`, seen through more or less haze."""
    image = LANDS[label](rng)
    haze = rng.uniform(0, 0.3)
    return image * (1 - haze) + haze * np.asarray([0.62, 0.66, 0.72])


def _ground(rng: np.random.Generator) -> Floats:
    """Draw meadow or bare soil with patches."""
    hue = rng.uniform(0.08, 0.34)  # brown to green
    low, high = color(rng, hue, 0.40, 0.34), color(rng, hue, 0.38, 0.52)
    return blend(0.6 * smooth_noise(rng, 3) + 0.4 * smooth_noise(rng, 9), low, high)


def _water(rng: np.random.Generator) -> Color:
    return color(rng, rng.uniform(0.48, 0.63), 0.55, rng.uniform(0.22, 0.42))


def _course(rng: np.random.Generator, bend: float) -> Floats:
    """Return points `[n, 2]` of a way across the whole image that wanders by `bend`."""
    along = np.linspace(-0.8, 0.8, 25)
    across = rng.uniform(-0.25, 0.25) + bend * np.sin(along * rng.uniform(4, 8) + rng.uniform(0, 6.3))
    return np.stack([along, across], axis=1) @ rotation(rng.uniform(0, np.pi)).T + 0.5


def _forest(rng: np.random.Generator) -> Floats:
    hue = rng.uniform(0.22, 0.42)
    crowns = 0.5 * smooth_noise(rng, 12) + 0.5 * smooth_noise(rng, 20)
    return blend(crowns, color(rng, hue, 0.55, 0.12), color(rng, hue, 0.50, 0.48))


def _pasture(rng: np.random.Generator) -> Floats:
    drawing = Drawing(_ground(rng))
    for _ in range(rng.integers(1, 3)):  # hedges
        drawing.line(_course(rng, 0.02), color(rng, 0.3, 0.45, 0.25), 0.03)
    return drawing.finish()


def _crop_field(rng: np.random.Generator) -> Floats:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    image = np.zeros((SIDE, SIDE, 3))
    angle, borders = rng.uniform(0, np.pi), np.sort(rng.uniform(0.2, 0.8, 2))
    side = (np.cos(angle) * (columns / SIDE - 0.5) + np.sin(angle) * (rows / SIDE - 0.5)) + 0.5
    for field in range(3):  # three parcels, furrows along or across
        turned = angle + rng.integers(0, 2) * np.pi / 2
        furrows = np.sin((np.cos(turned) * columns + np.sin(turned) * rows) * rng.uniform(1.0, 2.1))
        hue = rng.uniform(0.08, 0.32)
        parcel = blend(0.5 + 0.5 * furrows, color(rng, hue, 0.45, 0.38), color(rng, hue, 0.45, 0.58))
        inside = np.searchsorted(borders, side) == field
        image[inside] = parcel[inside]
    return image


def _lake(rng: np.random.Generator) -> Floats:
    shore = smooth_noise(rng, 2) + 0.15 * smooth_noise(rng, 6)
    water = np.clip((shore - np.quantile(shore, rng.uniform(0.15, 0.5))) * 12, 0, 1)[:, :, None]
    waves = 1 + 0.15 * (smooth_noise(rng, 10) - 0.5)[:, :, None]
    image: Floats = _ground(rng) * (1 - water) + np.asarray(_water(rng)) * waves * water
    return image


def _river(rng: np.random.Generator) -> Floats:
    drawing, course, width = Drawing(_ground(rng)), _course(rng, rng.uniform(0.08, 0.2)), rng.uniform(0.10, 0.24)
    drawing.line(course, color(rng, 0.13, 0.30, 0.60), width + 0.06)  # banks
    drawing.line(course, _water(rng), width)
    return drawing.finish()


def _highway(rng: np.random.Generator) -> Floats:
    drawing, course, width = Drawing(_ground(rng)), _course(rng, rng.uniform(0, 0.05)), rng.uniform(0.12, 0.22)
    drawing.line(course, color(rng, saturation=0.06, value=0.45), width)
    drawing.line(course, color(rng, saturation=0.04, value=0.80), 0.02)
    for point in course[rng.choice(len(course), 5, replace=False)]:  # cars
        drawing.polygon(point + _SQUARE * 0.035, color(rng, saturation=0.6, value=0.8))
    return drawing.finish()


def _buildings(rng: np.random.Generator, spacing: float, fill: float, roofs: Callable[[], Color]) -> Floats:
    """Draw buildings on a turned lattice with streets between; `fill` is the share of a lot that a roof takes."""
    drawing, turn = Drawing(_ground(rng)), rotation(rng.uniform(0, np.pi / 2))
    street, reach = color(rng, saturation=0.06, value=0.5), int(np.ceil(0.75 / spacing))
    for row in range(-reach, reach + 1):
        way = np.asarray([[-1, (row + 0.5) * spacing], [1, (row + 0.5) * spacing]])
        if row % 2:
            drawing.line(way @ turn.T + 0.5, street, 0.25 * spacing)
        for column in range(-reach, reach + 1):
            size = fill * spacing * rng.uniform(0.75, 1.1, 2)
            corners = _SQUARE * size / 2 + spacing * (np.asarray([column, row]) + rng.normal(0, 0.06, 2))
            if rng.uniform() < 0.85:
                drawing.polygon(corners @ turn.T + 0.5, roofs())
    return drawing.finish()


def _residential_area(rng: np.random.Generator) -> Floats:
    return _buildings(rng, rng.uniform(0.16, 0.24), 0.62, lambda: color(rng, rng.uniform(0.0, 0.08), 0.45, 0.55))


def _industrial_area(rng: np.random.Generator) -> Floats:
    return _buildings(rng, rng.uniform(0.36, 0.52), 0.80, lambda: color(rng, rng.uniform(0.5, 0.7), 0.1, 0.72))


LANDS = by_class(_forest, _pasture, _crop_field, _lake, _river, _highway, _residential_area, _industrial_area)
