"""What the tiny CLIP of the suite is pretrained on: captioned images of other styles than the tasks'.

Coloured shapes, printed digits, and the subjects of the rendered tasks as monochrome prints. So the pretrained model knows
every word of the tasks and something of what it looks like, as CLIP does, and is still far from solving them.
"""

from __future__ import annotations

import zlib

import numpy as np
from tasks import TASKS

from mingle_edge.demo.canvas import SIDE, Bytes, Floats, photograph
from mingle_edge.demo.digits import draw_printed
from mingle_edge.demo.pretraining import coloured_shape, monochrome_print


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
    image = draw_printed(rng, label) if task.draw is None else monochrome_print(rng, task.draw(rng, label))
    return image, task.subject.format(label)
