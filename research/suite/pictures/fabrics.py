"""Fabrics: seven weaves and prints in any two colors, wrinkled, with threads showing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.demo.canvas import SIDE, Floats, blend, by_class, dark_and_light, fraction, patterned, smooth_noise

Mask = NDArray[Any]  # see `Pattern`


def draw_fabric(rng: np.random.Generator, label: str) -> Floats:
    """Draw a piece of one fabric of `FABRICS`."""
    mask = patterned(rng, FABRICS[label], (-0.6, 0.6), (0.26, 0.46), (0.05, 0.16))
    image = blend(mask, *dark_and_light(rng, swapped=0.5))
    folds = 1 - rng.uniform(0.1, 0.5) * smooth_noise(rng, 3)
    threads = 1 + rng.uniform(0, 0.12) * rng.normal(size=(SIDE, SIDE))
    return image * (folds * threads)[:, :, None]


def _tartan(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    wide, narrow = rng.uniform(0.28, 0.4), rng.uniform(0.05, 0.09)

    def bands(x: Floats) -> Floats:
        part = fraction(x)
        return np.where(part < wide, 0.5, 0.0) + np.where(np.abs(part - 0.7) < narrow, 0.5, 0.0)

    return bands(u) + bands(v)


def _herringbone(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    columns = rng.uniform(1.4, 1.8)
    lean = np.where(np.floor(columns * u) % 2 == 0, 1, -1)
    return fraction(2.2 * v + lean * 2.2 * u) < 0.5


def _houndstooth(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    warp, weft = fraction(u) < 0.5, fraction(v) < 0.5
    over = fraction(2 * (u + v)) < 0.5  # where both threads differ, the weave shows diagonals of either
    return np.where(warp == weft, warp, over)


def _knitted(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    across = np.abs(fraction(2 * u) - 0.5)
    mask: Mask = 0.5 + 0.5 * np.sin(2 * np.pi * (2.6 * v + 1.3 * across)) * (across < 0.42)
    return mask


def _twill(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    lines = 0.5 + 0.5 * np.sin(2 * np.pi * 1.6 * (u + v) * rng.uniform(0.9, 1.1))
    return 0.7 * lines * (0.6 + 0.4 * (fraction(4 * (u - v)) < 0.5))


def _gingham(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    share = rng.uniform(0.42, 0.58)
    return 0.5 * (fraction(u) < share) + 0.5 * (fraction(v) < share)


def _argyle(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    a, b = u + 0.6 * v, u - 0.6 * v
    diamonds = 0.75 * ((np.floor(a) + np.floor(b)) % 2)
    lines = (np.abs(fraction(a + 0.5) - 0.5) < 0.06) | (np.abs(fraction(b + 0.5) - 0.5) < 0.06)
    return np.where(lines, 1.0, diamonds)


FABRICS = by_class(_tartan, _herringbone, _houndstooth, _knitted, _twill, _gingham, _argyle)
