"""The suite of ten tasks of real images, made of packages in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np

from mingle_edge.demo import canvas, captions, digits, outlines, splits, tiny_clip
from mingle_edge.demo.canvas import Bytes, Floats
from mingle_edge.demo.captions import captioned_images
from mingle_edge.demo.splits import LabeledImages, Split, make_split
from mingle_edge.demo.tasks import ImageTask
from research.suite import rendered
from research.suite.real import drawing, fonts, photos, scans, vectors, vendors
from research.suite.real import tasks as real_tasks
from research.suite.real.packages import digest
from research.suite.real.tasks import GROUPS, TASKS, RealTask
from research.suite.recipe import recipe
from research.suite.rendered import OUTLINES, choose_style
from research.suite.scale import FINE_TUNING, WIDTH, Scale

SCALE = Scale(fine_tuning=replace(FINE_TUNING, steps=400))
_CODE = (canvas, digits, drawing, fonts, photos, scans, splits, vectors, vendors, real_tasks)
_STREAM = "real/"


@dataclass(frozen=True)
class Real:
    """The tasks of real images, of packages in the folder `sources`."""

    sources: Path
    groups: Sequence[int] = GROUPS

    @property
    def tasks(self) -> Sequence[ImageTask]:
        """The tasks; their `draw` is None, for `split` deals out originals."""
        return [ImageTask(task.name, task.classes, task.template, task.subject, None) for task in TASKS]

    def images_recipe(self, task: ImageTask, seed: int, scale: Scale) -> str:
        """Return a hash of all that the images of a task depend on, files of its sources among it."""
        per_class, files = scale.per_class(len(task.classes)), _named(task).files(self.sources)
        return recipe(task.name, task.classes, seed, per_class, [(path.name, digest(path)) for path in files], *_CODE)

    def split(self, task: ImageTask, split: Split, seed: int, scale: Scale) -> LabeledImages:
        """Draw each original of a split in turn, of a class's in any order, until there are as many images as asked for."""
        dealt = _Dealer(_named(task), self.sources, split)
        return make_split(replace(task, draw=dealt), split, seed, scale.per_class(len(task.classes)), _STREAM)

    def backbone_recipe(self, seed: int, scale: Scale) -> str:
        """Return a hash of all that the pretrained model depends on."""
        kinds = [(task.name, task.classes, task.subject) for task in TASKS]
        files = [(path.name, digest(path)) for task in TASKS for path in task.files(self.sources)]
        lengths = (scale.captioned, scale.text, scale.pretraining)
        return recipe(WIDTH, OUTLINES, seed, lengths, kinds, files, *_CODE, captions, outlines, rendered, tiny_clip)

    def captioned(self, seed: int, scale: Scale) -> tuple[Bytes, list[str]]:
        """Draw outlines and monochrome prints of training originals, negatives where they are in ink, and colored shapes."""
        kinds = [replace(task, draw=_Caption(_named(task), self.sources)) for task in self.tasks]
        stream = f"{_STREAM}captions"
        return captioned_images((*kinds, None), seed, scale.captioned, stream=stream, choose_style=choose_style)

    def vocabulary(self) -> Sequence[str]:
        """Return the subjects of all tasks."""
        return [subject for task in self.tasks for subject in task.subjects]


class _Dealer:
    """Draws the originals of a split of a task, those of a class one after another."""

    def __init__(self, task: RealTask, sources: Path, split: Split) -> None:
        self._task = task
        self._originals = dict(zip(task.classes, task.load(sources, split), strict=True))
        self._dealt: dict[str, Iterator[int]] = {}

    def __call__(self, rng: np.random.Generator, label: str) -> Floats:
        """Draw the next original of a class."""
        originals = self._originals[label]
        if label not in self._dealt:
            self._dealt[label] = cycle(rng.permutation(len(originals)).tolist())
        return self._task.draw(rng, originals[next(self._dealt[label])])


class _Caption(_Dealer):
    """Draws training originals to be printed or outlined, those in ink light on dark."""

    def __init__(self, task: RealTask, sources: Path) -> None:
        super().__init__(task, sources, "train")

    def __call__(self, rng: np.random.Generator, label: str) -> Floats:
        """Draw the next original of a class."""
        image = super().__call__(rng, label)
        return 1 - image if self._task.ink else image


def _named(task: ImageTask) -> RealTask:
    return next(real for real in TASKS if real.name == task.name)
