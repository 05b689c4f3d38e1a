"""What a drawing or scan becomes before it is photographed: turned a little, anywhere at any size, on any ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mingle_edge.demo.canvas import SIDE, Bytes, Floats, blend, color, dark_and_light, smooth_noise

_TURN = 6.0  # degrees at most, to either side


def draw_sprite(rng: np.random.Generator, sprite: Bytes) -> Floats:
    """Draw a picture with opacity `[h, w, 4]` on any uneven ground: `[SIDE, SIDE, 3]`."""
    placed = _placed(rng, Image.fromarray(sprite, "RGBA"))  # [SIDE, SIDE, 4]
    saturation, value = rng.uniform(0.05, 0.5), rng.uniform(0.25, 0.95)
    ground = blend(smooth_noise(rng, 3), *(color(rng, saturation=saturation, value=value) for _ in range(2)))
    opacity = placed[:, :, 3:]
    drawn: Floats = placed[:, :, :3] * opacity + ground * (1 - opacity)
    return drawn


def draw_ink(rng: np.random.Generator, mask: Bytes) -> Floats:
    """Draw a mask `[h, w]` in one color, dark on uneven light paper: `[SIDE, SIDE, 3]`."""
    placed = _placed(rng, Image.fromarray(mask, "L"))[:, :, 0]  # [SIDE, SIDE]
    stains = rng.uniform(0, 0.25) * smooth_noise(rng, 3)
    ink, paper = dark_and_light(rng)
    return blend(np.maximum(placed, stains), paper, ink)


def draw_gray(rng: np.random.Generator, scan: Bytes) -> Floats:
    """Draw a gray scan `[h, w]` a little moved and scaled, without any other change: `[SIDE, SIDE, 3]`."""
    size = int(rng.integers(27, 33))
    page, corner = np.zeros((SIDE, SIDE), np.float32), rng.integers(0, SIDE - size + 1, 2)
    scaled = np.asarray(Image.fromarray(scan, "L").resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    page[corner[0] : corner[0] + size, corner[1] : corner[1] + size] = scaled
    return np.repeat(page[:, :, None], 3, axis=2)


def draw_cell(rng: np.random.Generator, cell: Bytes) -> Floats:
    """Draw most of a cell of a photograph `[h, h, 3]`, either way round: `[SIDE, SIDE, 3]`."""
    side = round(len(cell) * rng.uniform(0.75, 1.0))
    top, left = rng.integers(0, len(cell) - side + 1, 2)
    part = np.asarray(cell[top : top + side, left : left + side])
    turned = part[:, ::-1] if rng.uniform() < 0.5 else part
    scaled = Image.fromarray(np.ascontiguousarray(turned), "RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(scaled, np.float32) / 255


def trimmed(image: Bytes, opacity: NDArray[np.uint8]) -> Bytes:
    """Return the smallest part of an image `[h, w, ...]` that holds everything of some opacity `[h, w]`."""
    rows, columns = (np.flatnonzero((opacity > 8).any(axis)) for axis in (1, 0))
    return np.ascontiguousarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _placed(rng: np.random.Generator, image: Image.Image) -> Floats:
    """Return an image turned, scaled to most of the side and placed anywhere: `[SIDE, SIDE, channels]`, else zero."""
    turned = image.rotate(rng.uniform(-_TURN, _TURN), Image.Resampling.BICUBIC, expand=True)
    longest = rng.uniform(0.8, 1.0) * SIDE
    shrink = longest / max(turned.size)
    width, height = (max(1, round(edge * shrink)) for edge in turned.size)
    left, top = rng.integers(0, SIDE - width + 1), rng.integers(0, SIDE - height + 1)
    page = Image.new(image.mode, (SIDE, SIDE))
    page.paste(turned.resize((width, height), Image.Resampling.BOX), (int(left), int(top)))
    placed: Floats = np.asarray(page, np.float32) / 255
    return placed.reshape(SIDE, SIDE, -1)
