"""Smooth images made from nothing, for checking one implementation against another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WAVES = 6  # cosines along each axis


def smooth_images(count: int, size: int) -> NDArray[np.uint8]:
    """Return `[count, size, size, 3]`: random sums of low-frequency cosines over the full range, always the same."""
    random = np.random.default_rng(20250518)
    frequencies = np.arange(WAVES)
    waves = np.cos(np.pi * frequencies * (np.arange(size)[:, None] + 0.5) / size)  # [size, waves]
    decay = 1.0 / (1.0 + frequencies[:, None] + frequencies)
    coefficients = random.standard_normal((count, 3, WAVES, WAVES)) * decay
    images = waves @ coefficients @ waves.T  # [count, 3, size, size]
    low, high = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
    scaled = np.round(255 * (images - low) / (high - low)).astype(np.uint8)
    return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1))
