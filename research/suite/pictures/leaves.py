"""Leaves on soil, stone or grass, in green or autumn colors, turned any way: eight outlines."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Color, Drawing, Floats, by_class, color
from mingle_edge.demo.outlines import arc, points
from research.suite.pictures.shapes import Pose, surface


def draw_leaf(rng: np.random.Generator, label: str) -> Floats:
    """Draw a leaf of `LEAVES` with its veins."""
    drawing = Drawing(surface(rng, rng.uniform(0.03, 0.15), rng.uniform(0.1, 0.35), rng.choice([0.2, 0.85])))
    for _ in range(rng.integers(0, 3)):  # stems and sticks
        drawing.line(rng.uniform(-0.1, 1.1, (2, 2)), color(rng, 0.1, 0.4, rng.uniform(0.2, 0.7)), 0.03)
    place = Pose(rng, (0.4, 0.5), 0.3, 0.8, mirrored=True, wander=0.6)
    hue, value = rng.choice([rng.uniform(0.2, 0.36), rng.uniform(0.0, 0.14)]), rng.uniform(0.42, 0.68)
    fill, vein = color(rng, hue, 0.65, value), color(rng, hue, 0.45, value + rng.choice([-0.22, 0.22]))
    drawing.line(place(points((0, 0.3), (rng.normal(0, 0.08), 1.1))), vein, place.width(0.1))
    for outline in LEAVES[label](rng):
        drawing.polygon(place(outline), fill)
    _veins(rng, drawing, place, label, vein)
    return drawing.finish()


def _veins(rng: np.random.Generator, drawing: Drawing, place: Pose, label: str, vein: Color) -> None:
    if label in ("maple", "ginkgo", "clover"):
        start = points((0, 0.55 if label != "clover" else 0.25))
        for angle in np.linspace(-0.85, -0.15, 3 if label == "clover" else 5) * pi:
            drawing.line(
                place(np.concatenate([start, start + 0.7 * points((np.cos(angle), np.sin(angle)))])), vein, place.width(0.04)
            )
    else:
        drawing.line(place(points((0, 0.8), (0, -0.75))), vein, place.width(0.06))


def _both_sides(half: Floats) -> Floats:
    """Close the right half of an outline, from tip to stalk, by its mirror image."""
    return np.concatenate([half, half[::-1] * (-1, 1)])


def _birch(rng: np.random.Generator) -> list[Floats]:
    along = np.linspace(0, 1, 25)
    width = rng.uniform(0.55, 0.68) * np.sin(pi * along**0.75) * (1 + 0.1 * (np.arange(25) % 2))
    return [_both_sides(np.stack([width, -0.9 + 1.7 * along], axis=1))]


def _willow(rng: np.random.Generator) -> list[Floats]:
    along = np.linspace(0, 1, 20)
    width = rng.uniform(0.16, 0.24) * np.sin(pi * along)
    return [_both_sides(np.stack([width, -1 + 2 * along], axis=1))]


def _oak(rng: np.random.Generator) -> list[Floats]:
    along = np.linspace(0, 1, 40)
    lobes = 1 + 0.33 * np.sin(2 * pi * (rng.uniform(3.4, 4.2) * along - 0.2))
    width = rng.uniform(0.4, 0.5) * np.sin(pi * np.clip(along, 0.06, 1) ** 0.8) * lobes
    return [_both_sides(np.stack([width, -0.95 + 1.8 * along], axis=1))]


def _maple(rng: np.random.Generator) -> list[Floats]:
    half = points(
        (0, -1),
        (0.14, -0.55),
        (0.3, -0.62),
        (0.26, -0.22),
        (0.85, -0.55),
        (0.74, -0.25),
        (0.98, -0.1),
        (0.52, 0.18),
        (0.62, 0.5),
        (0.1, 0.5),
        (0, 0.6),
    )
    return [_both_sides(half + rng.normal(0, 0.03, half.shape) * (half[:, :1] > 0))]


def _ginkgo(rng: np.random.Generator) -> list[Floats]:
    spread = rng.uniform(0.3, 0.42) * pi
    rim = arc(-pi / 2 - spread, -pi / 2 + spread, 1.35, (0, 0.7), 24)
    rim[11:13] = points((0, -0.15))  # the notch
    return [np.concatenate([points((0, 0.7)), rim])]


def _clover(rng: np.random.Generator) -> list[Floats]:
    size = rng.uniform(0.42, 0.5)
    return [arc(0, 2 * pi, size, (0.52 * np.cos(a), 0.1 + 0.52 * np.sin(a)), 20) for a in (-pi / 2, pi / 6, 5 * pi / 6)]


def _fern(rng: np.random.Generator) -> list[Floats]:
    leaflets: list[Floats] = []
    for y in np.linspace(-0.75, 0.65, int(rng.integers(6, 8))):
        reach = 0.25 + 0.55 * (y + 0.9) / 1.6
        for side in (-1, 1):
            leaflets.append(points((0, y - 0.06), (reach * side, y - 0.22), (0.85 * reach * side, y - 0.05), (0, y + 0.08)))
    return [*leaflets, points((-0.05, 0.8), (0, -1), (0.05, 0.8))]


def _linden(rng: np.random.Generator) -> list[Floats]:
    half = np.concatenate(
        [points((0, -0.95), (0.35, -0.45)), arc(-0.15 * pi, 0.8 * pi, (0.5, 0.55), (0.32, 0.15)), points((0, 0.4))]
    )
    return [_both_sides(half)]


LEAVES = by_class(_birch, _willow, _oak, _maple, _ginkgo, _clover, _fern, _linden)
