"""What the tiny CLIP is pretrained on: captioned images of other styles than the tasks'.

Coloured shapes, printed digits, and the subjects of the three rendered tasks as monochrome prints. So the pretrained model
knows every word of the tasks and a little of what it looks like, as CLIP does, and is still far from solving them.
"""

from __future__ import annotations

import zlib

import numpy as np

from mingle_edge.demo.canvas import (
    SIDE,
    Bytes,
    Drawing,
    Floats,
    blend,
    colour,
    dark_and_light,
    luminance,
    photograph,
    smooth_noise,
)
from mingle_edge.demo.digits import DIGITS, draw_printed
from mingle_edge.demo.satellite import LANDS, draw_land
from mingle_edge.demo.signs import SIGNS, draw_sign
from mingle_edge.demo.textures import TEXTURES, draw_texture

COUNT = 8000
_HUES = {"red": 0.0, "yellow": 0.15, "green": 0.33, "blue": 0.62, "purple": 0.8}
_CORNERS = {"triangle": 3, "square": 4, "hexagon": 6, "circle": 30}


def pretraining_images(seed: int) -> tuple[Bytes, list[str]]:
    """`COUNT` images `[COUNT, SIDE, SIDE, 3]`, the five kinds in turn, and the subject of each, to go into a caption."""
    rng = np.random.default_rng([seed, zlib.crc32(b"pretraining")])
    kinds = (coloured_shape, _digit, _texture, _sign, _land)
    images, subjects = np.empty((COUNT, SIDE, SIDE, 3), np.uint8), []
    for number in range(COUNT):
        image, subject = kinds[number % len(kinds)](rng)
        images[number] = photograph(rng, image)
        subjects.append(subject)
    return images, subjects


def coloured_shape(rng: np.random.Generator) -> tuple[Floats, str]:
    """A regular shape of one colour on any ground, and its name."""
    hue, form = rng.choice(list(_HUES)), rng.choice(list(_CORNERS))
    background = blend(smooth_noise(rng, 3), *dark_and_light(rng))
    angles = rng.uniform(0, 6.3) + 2 * np.pi * np.arange(_CORNERS[form]) / _CORNERS[form]
    points = rng.uniform(0.35, 0.65, 2) + rng.uniform(0.2, 0.4) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    drawing = Drawing(background)
    drawing.polygon(points, colour(rng, _HUES[hue], 0.8, 0.8))
    return drawing.finish(), f"{hue} {form}"


def _digit(rng: np.random.Generator) -> tuple[Floats, str]:
    label = str(rng.choice(DIGITS))
    return draw_printed(rng, label), f"digit {label}"


def _texture(rng: np.random.Generator) -> tuple[Floats, str]:
    label = str(rng.choice(list(TEXTURES)))
    return monochrome_print(rng, draw_texture(rng, label)), f"{label} texture"


def _sign(rng: np.random.Generator) -> tuple[Floats, str]:
    label = str(rng.choice(list(SIGNS)))
    return monochrome_print(rng, draw_sign(rng, label)), f"{label} traffic sign"


def _land(rng: np.random.Generator) -> tuple[Floats, str]:
    label = str(rng.choice(list(LANDS)))
    return monochrome_print(rng, draw_land(rng, label)), f"{label} from above"


def monochrome_print(rng: np.random.Generator, image: Floats) -> Floats:
    """A monochrome print: any ink on any paper, contrast stretched."""
    tone = luminance(image)
    low, high = np.quantile(tone, [0.02, 0.98])
    return blend(np.clip((tone - low) / (high - low + 1e-3), 0, 1), *dark_and_light(rng))
