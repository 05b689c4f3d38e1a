"""What all rendered images share: colors, smooth noise, patterns, drawing with antialiasing, and a simulated camera.

Images are floats `[SIDE, SIDE, 3]` in [0, 1] until `to_uint8`. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 32  # pixels of an image's side
_OVERSAMPLING = 4  # drawings are made this much larger, then averaged down
_LARGE_SIDE = SIDE * _OVERSAMPLING  # pixels

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]
Color = tuple[float, float, float]  # red, green, blue in [0, 1]
Range = tuple[float, float]  # what a random value is between
Draw = TypeVar("Draw", bound=Callable[..., Any])
Pattern = Callable[[np.random.Generator, Floats, Floats], NDArray[Any]]
"""(generator, u, v in periods `[2 SIDE, 2 SIDE]`) -> the share of the second color `[2 SIDE, 2 SIDE]`, 0 to 1 or boolean."""


def by_class(*draws: Draw) -> dict[str, Draw]:
    """Return functions that draw one class each by the name of the class: `_crop_field` draws a `crop field`."""
    return {draw.__name__.strip("_").replace("_", " "): draw for draw in draws}


def color(rng: np.random.Generator, hue: float | None = None, saturation: float = 0.6, value: float = 0.6) -> Color:
    """Draw a color near the given saturation and value; any hue unless one in [0, 1) is given, then one near it."""
    h = rng.uniform() if hue is None else hue + rng.normal(0, 0.015)
    s, v = (min(max(mean + rng.normal(0, 0.08), 0.0), 1.0) for mean in (saturation, value))
    return colorsys.hsv_to_rgb(h % 1.0, s, v)


def dark_and_light(rng: np.random.Generator, swapped: float = 0.0) -> tuple[Color, Color]:
    """Draw a dark and a light color of any two hues, the light one first with the probability `swapped`."""
    dark = color(rng, saturation=rng.uniform(0.2, 0.9), value=rng.uniform(0.12, 0.42))
    light = color(rng, saturation=rng.uniform(0.0, 0.4), value=rng.uniform(0.72, 0.97))
    return (light, dark) if swapped and rng.uniform() < swapped else (dark, light)


def luminance(image: Floats) -> Floats:
    """Return Rec. 601 luma `[...]` of RGB `[..., 3]`."""
    luma: Floats = image @ np.asarray([0.299, 0.587, 0.114], image.dtype)
    return luma


def blend(mask: Floats, low: Color, high: Color) -> Floats:
    """Return an image that is `low` where the mask `[SIDE, SIDE]` is 0 and `high` where it is 1."""
    weight = mask[:, :, None]  # [SIDE, SIDE, 1]
    mixed: Floats = np.asarray(low) * (1 - weight) + np.asarray(high) * weight
    return mixed


def smooth_noise(rng: np.random.Generator, cells: int, side: int = SIDE) -> Floats:
    """Draw noise `[side, side]` in [0, 1] that varies smoothly over about `cells` cells per side."""
    coarse = rng.uniform(0, 1, (cells + 1, cells + 1)).astype(np.float32)
    fine = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    noise: Floats = np.clip(fine, 0, 1)
    return noise


def patterned(
    rng: np.random.Generator,
    pattern: Pattern,
    angle: tuple[float, float],
    period: tuple[float, float],
    bend: tuple[float, float],
) -> Floats:
    """Draw a pattern `[SIDE, SIDE]`, antialiased; its angle, period and bending are between two values each."""
    fine = 2 * SIDE  # patterns are computed twice as fine and averaged down
    rows, columns = np.mgrid[0:fine, 0:fine] / fine - 0.5
    turned, length, bent = rng.uniform(*angle), rng.uniform(*period), rng.uniform(*bend)
    u = np.cos(turned) * columns + np.sin(turned) * rows + bent * (smooth_noise(rng, 2, fine) - 0.5)
    v = np.cos(turned) * rows - np.sin(turned) * columns + bent * (smooth_noise(rng, 2, fine) - 0.5)
    phase = rng.uniform(0, 1, 2)
    shares = np.asarray(pattern(rng, u / length + phase[0], v / length + phase[1]), float)
    averaged: Floats = shares.reshape(SIDE, 2, SIDE, 2).mean((1, 3))  # [fine, fine] -> [SIDE, SIDE]
    return averaged


def fraction(x: Floats) -> Floats:
    """Return what values have beyond whole numbers."""
    return x - np.floor(x)


class Drawing:
    """Shapes in units of the image side, antialiased by drawing large and averaging down."""

    def __init__(self, background: Floats) -> None:
        self._image = Image.fromarray(to_uint8(background)).resize((_LARGE_SIDE,) * 2, Image.Resampling.BILINEAR)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Floats, fill: Color) -> None:
        """Draw a filled polygon through points `[n, 2]` (x, y)."""
        self._draw.polygon(self._pixels(points), fill=_rgb(fill))

    def line(self, points: Floats, fill: Color, width: float) -> None:
        """Draw an open line through points `[n, 2]` with rounded joints."""
        self._draw.line(self._pixels(points), fill=_rgb(fill), width=max(1, round(width * _LARGE_SIDE)), joint="curve")

    def finish(self) -> Floats:
        """Return the drawing at its final size, `[SIDE, SIDE, 3]`."""
        return np.asarray(self._image.reduce(_OVERSAMPLING), np.float32) / 255

    def _pixels(self, points: Floats) -> list[tuple[float, float]]:
        return [(x, y) for x, y in (points * _LARGE_SIDE).tolist()]


def photograph(rng: np.random.Generator, image: Floats, noise: float = 0.04) -> Bytes:
    """Return the image as a cheap camera sees it: uneven light, exposure, a color cast and sensor noise."""
    light = 1 + 0.35 * (smooth_noise(rng, 1) - 0.5)[:, :, None]  # [SIDE, SIDE, 1]
    cast = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    exposed = np.clip(image * light * cast, 0, 1) ** rng.uniform(0.75, 1.3)
    return to_uint8(exposed + rng.normal(0, rng.uniform(0.2, 1.0) * noise, image.shape))


def to_uint8(image: Floats) -> Bytes:
    """Return values in [0, 1] (clipped) as bytes."""
    levels: Bytes = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return levels


def _rgb(value: Color) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(max(channel, 0.0), 1.0)) for channel in value)
    return red, green, blue
