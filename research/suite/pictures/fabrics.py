"""Fabrics: seven weaves and prints in any two colors, wrinkled, with threads showing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.demo.canvas import SIDE, Floats, blend, dark_and_light, smooth_noise

_FINE = 2 * SIDE  # patterns are computed twice as fine and averaged down
Mask = NDArray[Any]  # 0 to 1 or boolean
Pattern = Callable[[np.random.Generator, Floats, Floats], Mask]
"""(generator, u, v in repeats `[_FINE, _FINE]`) -> the share of the second color `[_FINE, _FINE]`."""


def draw_fabric(rng: np.random.Generator, label: str) -> Floats:
    """Draw a piece of one fabric of `FABRICS`."""
    rows, columns = np.mgrid[0:_FINE, 0:_FINE] / _FINE - 0.5
    angle, repeat, bend = rng.uniform(-0.6, 0.6), rng.uniform(0.26, 0.46), rng.uniform(0.05, 0.16)
    u = np.cos(angle) * columns + np.sin(angle) * rows + bend * (smooth_noise(rng, 2, _FINE) - 0.5)
    v = np.cos(angle) * rows - np.sin(angle) * columns + bend * (smooth_noise(rng, 2, _FINE) - 0.5)
    phase = rng.uniform(0, 1, 2)
    mask = FABRICS[label](rng, u / repeat + phase[0], v / repeat + phase[1])
    mask = np.asarray(mask, float).reshape(SIDE, 2, SIDE, 2).mean((1, 3))  # [_FINE, _FINE] -> [SIDE, SIDE], antialiased
    low, high = dark_and_light(rng)
    if rng.uniform() < 0.5:
        low, high = high, low
    image = blend(mask, low, high)
    folds = 1 - rng.uniform(0.1, 0.5) * smooth_noise(rng, 3)
    threads = 1 + rng.uniform(0, 0.12) * rng.normal(size=(SIDE, SIDE))
    return image * (folds * threads)[:, :, None]


def _part(x: Floats) -> Floats:
    return x - np.floor(x)


def _tartan(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    wide, narrow = rng.uniform(0.28, 0.4), rng.uniform(0.05, 0.09)

    def bands(x: Floats) -> Floats:
        part = _part(x)
        return np.where(part < wide, 0.5, 0.0) + np.where(np.abs(part - 0.7) < narrow, 0.5, 0.0)

    return bands(u) + bands(v)


def _herringbone(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    columns = rng.uniform(1.4, 1.8)
    lean = np.where(np.floor(columns * u) % 2 == 0, 1, -1)
    return _part(2.2 * v + lean * 2.2 * u) < 0.5


def _houndstooth(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    warp, weft = _part(u) < 0.5, _part(v) < 0.5
    over = _part(2 * (u + v)) < 0.5  # where both threads differ, the weave shows diagonals of either
    return np.where(warp == weft, warp, over)


def _knitted(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    across = np.abs(_part(2 * u) - 0.5)
    mask: Mask = 0.5 + 0.5 * np.sin(2 * np.pi * (2.6 * v + 1.3 * across)) * (across < 0.42)
    return mask


def _twill(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    lines = 0.5 + 0.5 * np.sin(2 * np.pi * 1.6 * (u + v) * rng.uniform(0.9, 1.1))
    return 0.7 * lines * (0.6 + 0.4 * (_part(4 * (u - v)) < 0.5))


def _gingham(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    share = rng.uniform(0.42, 0.58)
    return 0.5 * (_part(u) < share) + 0.5 * (_part(v) < share)


def _argyle(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    a, b = u + 0.6 * v, u - 0.6 * v
    diamonds = 0.75 * ((np.floor(a) + np.floor(b)) % 2)
    lines = (np.abs(_part(a + 0.5) - 0.5) < 0.06) | (np.abs(_part(b + 0.5) - 0.5) < 0.06)
    return np.where(lines, 1.0, diamonds)


FABRICS: dict[str, Pattern] = {
    "tartan": _tartan,
    "herringbone": _herringbone,
    "houndstooth": _houndstooth,
    "knitted": _knitted,
    "twill": _twill,
    "gingham": _gingham,
    "argyle": _argyle,
}
