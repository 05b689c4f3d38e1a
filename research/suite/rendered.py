"""The suite of twenty tasks: rendered but for the handwritten digits, which are scans that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mingle_edge.demo import canvas, captions, outlines, splits, tiny_clip
from mingle_edge.demo.canvas import Bytes, Floats, blend, dark_and_light, luminance
from mingle_edge.demo.captions import Style, captioned_images, monochrome_print
from mingle_edge.demo.splits import LabeledImages, Split, make_split
from mingle_edge.demo.tasks import ImageTask
from research.suite.pictures import shapes
from research.suite.recipe import recipe
from research.suite.scale import WIDTH, Scale
from research.suite.tasks import GROUPS, TASKS

OUTLINES = 0.3  # part of the captioned images of tasks


@dataclass(frozen=True)
class Rendered:
    """The tasks that are made, of those that are all pretrained on."""

    tasks: Sequence[ImageTask] = TASKS
    groups: Sequence[int] = GROUPS

    def images_recipe(self, task: ImageTask, seed: int, scale: Scale) -> str:
        """Return a hash of all that the images of a task depend on."""
        per_class = scale.per_class(len(task.classes))
        return recipe(task.name, task.classes, seed, per_class, task.source, canvas, outlines, shapes, splits)

    def split(self, task: ImageTask, split: Split, seed: int, scale: Scale) -> LabeledImages:
        """Draw one split of a task, which shares no random number with the demonstration's."""
        return make_split(task, split, seed, scale.per_class(len(task.classes)), stream="suite/")

    def backbone_recipe(self, seed: int, scale: Scale) -> str:
        """Return a hash of all that the pretrained model depends on."""
        kinds = [(task.name, task.classes, task.subject) for task in TASKS]
        code = sorted({task.source for task in TASKS}, key=lambda module: module.__name__)
        lengths = (scale.captioned, scale.text, scale.pretraining)
        return recipe(WIDTH, OUTLINES, seed, lengths, kinds, *code, canvas, outlines, shapes, captions, tiny_clip)

    def captioned(self, seed: int, scale: Scale) -> tuple[Bytes, list[str]]:
        """Draw outlines and monochrome prints of all tasks' subjects, printed digits and colored shapes."""
        kinds, stream = (*TASKS, None), "suite/captions"
        return captioned_images(kinds, seed, scale.captioned, stream=stream, choose_style=choose_style)

    def vocabulary(self) -> Sequence[str]:
        """Return the subjects of all tasks."""
        return [subject for task in TASKS for subject in task.subjects]


def outline(rng: np.random.Generator, image: Floats) -> Floats:
    """Draw the edges of an image alone: dark on light, or light on dark."""
    edges = np.hypot(*np.gradient(luminance(image)))
    colors = dark_and_light(rng)
    low, high = colors if rng.uniform() < 0.5 else colors[::-1]
    return blend(np.clip(edges / (np.quantile(edges, 0.97) + 1e-3), 0, 1), low, high)


def choose_style(rng: np.random.Generator) -> Style:
    """Draw how a captioned image of a task is printed."""
    return outline if rng.uniform() < OUTLINES else monochrome_print
