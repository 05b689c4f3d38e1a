"""The images of a task on the disk: test, tune (for choosing parameters), seeds (for adaptation) and train."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mingle_edge.demo import canvas, outlines, splits
from mingle_edge.demo.splits import LabeledImages, Split, make_split, write_labeled
from mingle_edge.demo.tasks import ImageTask
from research.suite.pictures import shapes
from research.suite.recipe import is_made, making, recipe
from research.suite.scale import Scale

TRAINING = "train.npz"


def images_recipe(task: ImageTask, seed: int, scale: Scale) -> str:
    """Return a hash of all that the images of a task depend on."""
    per_class = scale.per_class(len(task.classes))
    return recipe(task.name, task.classes, seed, per_class, task.source, canvas, outlines, shapes, splits)


def suite_split(task: ImageTask, split: Split, seed: int, scale: Scale) -> LabeledImages:
    """Draw one split of a task of the suite, which shares no random number with the demonstration's."""
    return make_split(task, split, seed, scale.per_class(len(task.classes)), stream="suite/")


def write_images(folder: Path, task: ImageTask, seed: int, scale: Scale) -> None:
    """Write `folder/{test,tune,seeds}/<class>/NNNN.png` and the training images in one file; nothing if they are there."""
    by = images_recipe(task, seed, scale)
    if is_made(folder, by):
        return
    with making(folder, by) as made:
        training = suite_split(task, "train", seed, scale)
        made.mkdir(exist_ok=True)
        np.savez(made / TRAINING, images=training.images, labels=training.labels)
        labeled: tuple[Split, ...] = ("test", "tune", "seeds")
        for split in labeled:
            write_labeled(made / split, suite_split(task, split, seed, scale), task.classes)


def read_training(folder: Path) -> LabeledImages:
    """Read the training images of a task."""
    with np.load(folder / TRAINING) as stored:
        return LabeledImages(stored["images"], stored["labels"])
