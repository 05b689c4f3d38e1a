"""What statistics of the pixels are made with: sizes, constants and filters, for PyTorch and the exporter alike. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SCALES = 3
LARGEST_SIDE = 56
"""Pixels, about: larger images are averaged down to it, so that neither cost nor figures depend on how fine a source is."""
BINS = 16  # of a histogram
CELLS = 4  # per side, of the coarse picture
BORDER = 1 / 16  # of the side
FAINT = 3e-3  # added to magnitudes of values in [0, 1] before their logarithm
RARE = 1e-2  # added to shares and deviations before theirs
SPECK, BLACK = 0.25, 0.03  # a speck's distance from its surroundings, and from black or white, of values in [0, 1]
LEAST_CONTRAST = 0.07  # deviation of an image's values about the mean color
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, -1 / 2, 0.0), (1 / 4, 1 / 4, -1 / 2))  # luminance, red-green, yellow-blue of RGB


def pixel_side(image_size: int) -> tuple[int, int]:
    """Return how many pixels a side are averaged into one, and the side of what is left, a multiple of `CELLS`.

    What does not fill the last cell, at the right and at the bottom, is not looked at.
    """
    step = max(1, image_size // LARGEST_SIDE)
    return step, image_size // step // CELLS * CELLS


def cosine_filters() -> NDArray[np.float32]:
    """Return `[24, 3, 3, 3]` over RGB: for each opponent color the eight 3 x 3 cosine filters that have a mean of 0."""
    k, i = np.arange(3)[:, None], np.arange(3)
    basis = np.cos(np.pi * (2 * i + 1) * k / 6) * np.sqrt(np.where(k == 0, 1, 2) / 3)  # [3, 3]
    planes = np.einsum("ui,vj->uvij", basis, basis).reshape(9, 3, 3)[1:]  # without the mean
    filters = np.einsum("oc,fij->ofcij", np.array(OPPONENT), planes)
    return np.asarray(filters.reshape(-1, 3, 3, 3), dtype=np.float32)
