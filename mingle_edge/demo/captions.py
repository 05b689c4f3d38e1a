"""Captioned images of other styles than the tasks', which the tiny CLIP is pretrained on.

Colored shapes, printed digits, and the subjects of the rendered tasks in other styles, by default as monochrome prints. So the
pretrained model knows every word of the tasks and a little of what it looks like, as CLIP does, and is still far from solving
them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mingle_edge.demo.canvas import (
    SIDE,
    Bytes,
    Drawing,
    Floats,
    blend,
    color,
    dark_and_light,
    luminance,
    photograph,
    smooth_noise,
)
from mingle_edge.demo.digits import draw_printed
from mingle_edge.demo.outlines import regular
from mingle_edge.demo.tasks import ImageTask

_HUES = {"red": 0.0, "yellow": 0.15, "green": 0.33, "blue": 0.62, "purple": 0.8}
_CORNERS = {"triangle": 3, "square": 4, "hexagon": 6, "circle": 30}

Style = Callable[[np.random.Generator, Floats], Floats]


def monochrome_print(rng: np.random.Generator, image: Floats) -> Floats:
    """Print an image in any ink on any paper, contrast stretched."""
    tone = luminance(image)
    low, high = np.quantile(tone, [0.02, 0.98])
    return blend(np.clip((tone - low) / (high - low + 1e-3), 0, 1), *dark_and_light(rng))


def captioned_images(
    kinds: Sequence[ImageTask | None],
    seed: int,
    count: int,
    *,
    stream: str = "pretraining",
    choose_style: Callable[[np.random.Generator], Style] = lambda rng: monochrome_print,
) -> tuple[Bytes, list[str]]:
    """Draw images `[count, SIDE, SIDE, 3]`, the kinds in turn, and return them with the subject of each, to go into a caption.

    A kind is a task, or None for a colored shape.
    """
    rng = np.random.default_rng([seed, zlib.crc32(stream.encode())])
    images, subjects = np.empty((count, SIDE, SIDE, 3), np.uint8), []
    for number in range(count):
        task = kinds[number % len(kinds)]
        image, subject = _colored_shape(rng) if task is None else _of_task(rng, task, choose_style)
        images[number] = photograph(rng, image)
        subjects.append(subject)
    return images, subjects


def _of_task(
    rng: np.random.Generator, task: ImageTask, choose_style: Callable[[np.random.Generator], Style]
) -> tuple[Floats, str]:
    label = str(rng.choice(task.classes))
    if task.draw is None:
        return draw_printed(rng, label), task.subject.format(label)
    style = choose_style(rng)
    return style(rng, task.draw(rng, label)), task.subject.format(label)


def _colored_shape(rng: np.random.Generator) -> tuple[Floats, str]:
    """Draw a regular shape of one color on any ground; returns it and its name."""
    hue, form = rng.choice(list(_HUES)), rng.choice(list(_CORNERS))
    background = blend(smooth_noise(rng, 3), *dark_and_light(rng))
    outline = regular(_CORNERS[form], rng.uniform(0, 6.3))
    drawing = Drawing(background)
    drawing.polygon(rng.uniform(0.35, 0.65, 2) + rng.uniform(0.2, 0.4) * outline, color(rng, _HUES[hue], 0.8, 0.8))
    return drawing.finish(), f"{hue} {form}"
