"""The images of a task on the disk: test, tune (for choosing parameters), seeds (for adaptation) and train."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mingle_edge.demo.splits import LabeledImages, Split, write_labeled
from mingle_edge.demo.tasks import ImageTask
from research.suite.collection import Collection
from research.suite.recipe import is_made, making
from research.suite.scale import Scale

TRAINING = "train.npz"


def write_images(folder: Path, collection: Collection, task: ImageTask, seed: int, scale: Scale) -> None:
    """Write `folder/{test,tune,seeds}/<class>/NNNN.png` and the training images in one file; nothing if they are there."""
    by = collection.images_recipe(task, seed, scale)
    if is_made(folder, by):
        return
    with making(folder, by) as made:
        training = collection.split(task, "train", seed, scale)
        made.mkdir(exist_ok=True)
        np.savez(made / TRAINING, images=training.images, labels=training.labels)
        labeled: tuple[Split, ...] = ("test", "tune", "seeds")
        for split in labeled:
            write_labeled(made / split, collection.split(task, split, seed, scale), task.classes)


def read_training(folder: Path) -> LabeledImages:
    """Read the training images of a task."""
    with np.load(folder / TRAINING) as stored:
        return LabeledImages(stored["images"], stored["labels"])
