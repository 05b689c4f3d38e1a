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


@st.composite
def pictures(draw: st.DrawFn, modes: tuple[str, ...] = MODES, largest: int = 90) -> Image.Image:
    """Random pixels of any of the modes and sizes up to `largest`; alpha is random, a color or the palette transparent."""
    width, height = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    pixels = noise(height, width, 4, draw(st.integers(0, 1000)))
    mode = draw(st.sampled_from(modes))
    image = Image.fromarray(pixels[..., :3]).convert(mode)
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(Image.fromarray(pixels[..., 3]))
    if mode in ("L", "P", "RGB") and draw(st.booleans()):
        image.info["transparency"] = (3, 5, 7) if mode == "RGB" else 3
    if mode == "P" and draw(st.booleans()):
        image.info["transparency"] = pixels.tobytes()[:256].ljust(256, b"\0")
    return image
