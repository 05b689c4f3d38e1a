"""What the tiny CLIP of the suite is pretrained on: captioned images of other styles than the tasks'.

Coloured shapes, printed digits, and the subjects of the rendered tasks as outlines or monochrome prints. So the pretrained
model knows every word of the tasks and something of what it looks like, as CLIP does, and is still far from solving them.
"""

from __future__ import annotations

import zlib

import numpy as np
from tasks import TASKS

from mingle_edge.demo.canvas import SIDE, Bytes, Floats, blend, dark_and_light, luminance, photograph
from mingle_edge.demo.digits import draw_printed
from mingle_edge.demo.pretraining import coloured_shape, monochrome_print

_OUTLINES = 0.3  # part of the images of rendered tasks


def captioned_images(seed: int, count: int) -> tuple[Bytes, list[str]]:
    """Images `[count, SIDE, SIDE, 3]`, shapes and all tasks in turn, and the subject of each, to go into a caption."""
    rng = np.random.default_rng([seed, zlib.crc32(b"suite/captions")])
    images, subjects = np.empty((count, SIDE, SIDE, 3), np.uint8), []
    for number in range(count):
        image, subject = _captioned(rng, number % (len(TASKS) + 1))
        images[number] = photograph(rng, image)
        subjects.append(subject)
    return images, subjects


def all_subjects() -> list[str]:
    """The subjects of all tasks."""
    return [task.subject.format(name) for task in TASKS for name in task.classes]


def _captioned(rng: np.random.Generator, kind: int) -> tuple[Floats, str]:
    if kind == len(TASKS):
        return coloured_shape(rng)
    task = TASKS[kind]
    label = str(rng.choice(task.classes))
    if task.draw is None:
        return draw_printed(rng, label), task.subject.format(label)
    style = outline if rng.uniform() < _OUTLINES else monochrome_print
    return style(rng, task.draw(rng, label)), task.subject.format(label)


def outline(rng: np.random.Generator, image: Floats) -> Floats:
    """A drawing of the edges alone: dark on light, or light on dark."""
    edges = np.hypot(*np.gradient(luminance(image)))
    colours = dark_and_light(rng)
    low, high = colours if rng.uniform() < 0.5 else colours[::-1]
    return blend(np.clip(edges / (np.quantile(edges, 0.97) + 1e-3), 0, 1), low, high)
