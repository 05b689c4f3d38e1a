"""Textures: eight patterns in any two colors, at any scale and orientation, on an uneven surface."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.demo.canvas import Floats, blend, by_class, dark_and_light, fraction, patterned, smooth_noise

Mask = NDArray[Any]  # see `Pattern`


def draw_texture(rng: np.random.Generator, label: str) -> Floats:
    """Draw a patch `[SIDE, SIDE, 3]` of one texture of `TEXTURES`."""
    mask = patterned(rng, TEXTURES[label], (0, np.pi), (0.16, 0.34), (0, 0.12))
    wear = 1 - rng.uniform(0, 0.5) * smooth_noise(rng, 6)
    return blend(mask * wear, *dark_and_light(rng))


def _triangle_wave(x: Floats) -> Floats:
    return np.abs(2 * fraction(x) - 1)


def _striped(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    return fraction(u) < rng.uniform(0.35, 0.65)


def _chequered(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    return (np.floor(u) + np.floor(v)) % 2


def _dotted(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    shift = 0.5 * rng.integers(0, 2) * (np.floor(v) % 2)
    distance: Floats = np.hypot(fraction(u + shift) - 0.5, fraction(v) - 0.5)
    return distance < rng.uniform(0.22, 0.36)


def _grid(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    line = rng.uniform(0.12, 0.26)
    return (fraction(u) < line) | (fraction(v) < line)


def _zigzagged(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    return fraction(u + rng.uniform(0.8, 1.3) * _triangle_wave(v * rng.uniform(0.5, 0.8))) < 0.5


def _bricked(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    joint = rng.uniform(0.12, 0.22)
    offset = 0.5 * (np.floor(v) % 2)
    return (fraction(v) > joint) & (fraction(u / 2 + offset) > joint / 2)


def _marbled(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    veins = smooth_noise(rng, 3, len(u)) + 0.5 * smooth_noise(rng, 7, len(u))
    return 0.5 + 0.5 * np.sin(2 * np.pi * (0.25 * u + rng.uniform(1.2, 2.2) * veins))


def _cracked(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    centers = rng.uniform(-0.1, 1.1, (rng.integers(9, 22), 2))
    rows, columns = np.mgrid[0 : len(u), 0 : len(u)] / len(u)
    distance = np.hypot(rows[..., None] - centers[:, 0], columns[..., None] - centers[:, 1])  # [2 SIDE, 2 SIDE, n]
    nearest = np.partition(distance, 1, axis=-1)[..., :2]
    return nearest[..., 1] - nearest[..., 0] > rng.uniform(0.02, 0.045)


TEXTURES = by_class(_striped, _chequered, _dotted, _grid, _zigzagged, _bricked, _marbled, _cracked)
