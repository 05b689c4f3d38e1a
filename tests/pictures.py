"""Pictures of every 8-bit mode and size with random pixels, transparent ones included. Shared by tests of preprocessing."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def noise(height: int = 40, width: int = 30, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels `[height, width, channels]`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture(mode: str, height: int = 40, width: int = 31, seed: int = 0) -> Image.Image:
    """Random pixels of one mode; alpha, where there is any, is random, too."""
    pixels = noise(height, width, 4, seed)
    image = Image.fromarray(pixels[..., :3]).convert(mode)
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(Image.fromarray(pixels[..., 3]))
    return image


@st.composite
def pictures(draw: st.DrawFn, largest: int = 90) -> Image.Image:
    """Random pixels of any mode and any size up to `largest`; a color or the palette may be transparent."""
    mode = draw(st.sampled_from(MODES))
    image = picture(mode, draw(st.integers(1, largest)), draw(st.integers(1, largest)), draw(st.integers(0, 1000)))
    if mode in ("L", "P", "RGB") and draw(st.booleans()):
        image.info["transparency"] = (3, 5, 7) if mode == "RGB" else 3
    if mode == "P" and draw(st.booleans()):
        image.info["transparency"] = noise(1, 256, 1).tobytes()
    return image
