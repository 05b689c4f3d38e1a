"""What the making of a suite asks of a collection of tasks, whatever its images come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mingle_edge.demo.canvas import Bytes
from mingle_edge.demo.splits import LabeledImages, Split
from mingle_edge.demo.tasks import ImageTask
from research.suite.scale import Scale


class Collection(Protocol):
    """Tasks in the order of merging, their images, and images with captions to pretrain on."""

    @property
    def tasks(self) -> Sequence[ImageTask]:
        """The tasks; their `draw` is of captioned images, which `split` need not use."""

    @property
    def groups(self) -> Sequence[int]:
        """The first so many tasks form a group."""

    def images_recipe(self, task: ImageTask, seed: int, scale: Scale) -> str:
        """Return a hash of all that the images of a task depend on."""

    def split(self, task: ImageTask, split: Split, seed: int, scale: Scale) -> LabeledImages:
        """Draw one split of a task, the same for equal seeds."""

    def backbone_recipe(self, seed: int, scale: Scale) -> str:
        """Return a hash of all that the pretrained model depends on."""

    def captioned(self, seed: int, scale: Scale) -> tuple[Bytes, list[str]]:
        """Draw images `[scale.captioned, SIDE, SIDE, 3]` of other styles than the tasks', and return each one's subject."""

    def vocabulary(self) -> Sequence[str]:
        """Return every subject that the text tower learns besides those of the captions."""
