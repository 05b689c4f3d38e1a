"""Textures: eight patterns in any two colors, at any scale and orientation, on an uneven surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.demo.canvas import SIDE, Floats, blend, dark_and_light, smooth_noise

_FINE = 2 * SIDE  # patterns are computed twice as fine and averaged down
Mask = NDArray[Any]  # [_FINE, _FINE], 0 to 1 or boolean
Pattern = Callable[[np.random.Generator, Floats, Floats], Mask]


def draw_texture(rng: np.random.Generator, label: str) -> Floats:
    """Draw a patch `[SIDE, SIDE, 3]` of one texture of `TEXTURES`."""
    rows, columns = np.mgrid[0:_FINE, 0:_FINE] / _FINE - 0.5
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.16, 0.34)
    bend = rng.uniform(0, 0.12)
    u = np.cos(angle) * columns + np.sin(angle) * rows + bend * (smooth_noise(rng, 2, _FINE) - 0.5)
    v = np.cos(angle) * rows - np.sin(angle) * columns + bend * (smooth_noise(rng, 2, _FINE) - 0.5)
    phase = rng.uniform(0, 1, 2)
    mask = TEXTURES[label](rng, u / period + phase[0], v / period + phase[1])
    mask = mask.reshape(SIDE, 2, SIDE, 2).mean((1, 3))  # [_FINE, _FINE] -> [SIDE, SIDE], antialiased
    wear = 1 - rng.uniform(0, 0.5) * smooth_noise(rng, 6)
    return blend(mask * wear, *dark_and_light(rng))


def _triangle_wave(x: Floats) -> Floats:
    return np.abs(2 * (x - np.floor(x)) - 1)


def _fraction(x: Floats) -> Floats:
    return x - np.floor(x)


def _striped(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    return _fraction(u) < rng.uniform(0.35, 0.65)


def _chequered(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    return (np.floor(u) + np.floor(v)) % 2


def _dotted(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    shift = 0.5 * rng.integers(0, 2) * (np.floor(v) % 2)
    distance: Floats = np.hypot(_fraction(u + shift) - 0.5, _fraction(v) - 0.5)
    return distance < rng.uniform(0.22, 0.36)


def _grid(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    line = rng.uniform(0.12, 0.26)
    return (_fraction(u) < line) | (_fraction(v) < line)


def _zigzagged(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    return _fraction(u + rng.uniform(0.8, 1.3) * _triangle_wave(v * rng.uniform(0.5, 0.8))) < 0.5


def _bricked(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    joint = rng.uniform(0.12, 0.22)
    offset = 0.5 * (np.floor(v) % 2)
    return (_fraction(v) > joint) & (_fraction(u / 2 + offset) > joint / 2)


def _marbled(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    veins = smooth_noise(rng, 3, _FINE) + 0.5 * smooth_noise(rng, 7, _FINE)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (0.25 * u + rng.uniform(1.2, 2.2) * veins))


def _cracked(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    centers = rng.uniform(-0.1, 1.1, (rng.integers(9, 22), 2))
    rows, columns = np.mgrid[0:_FINE, 0:_FINE] / _FINE
    distance = np.hypot(rows[..., None] - centers[:, 0], columns[..., None] - centers[:, 1])  # [_FINE, _FINE, n]
    nearest = np.partition(distance, 1, axis=-1)[..., :2]
    return nearest[..., 1] - nearest[..., 0] > rng.uniform(0.02, 0.045)


TEXTURES: dict[str, Pattern] = {
    "striped": _striped,
    "chequered": _chequered,
    "dotted": _dotted,
    "grid": _grid,
    "zigzagged": _zigzagged,
    "bricked": _bricked,
    "marbled": _marbled,
    "cracked": _cracked,
}
