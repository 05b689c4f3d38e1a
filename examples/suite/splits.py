"""The images of a task in four disjoint parts: test, tune (for choosing parameters), seeds (for adaptation) and train."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pictures import shapes
from recipe import is_made, making, recipe
from scale import Part, Scale
from tasks import SuiteTask, task_named

from mingle_edge.demo import canvas
from mingle_edge.demo.canvas import Floats, photograph
from mingle_edge.demo.digits import draw_handwritten, handwritten_digits
from mingle_edge.demo.tasks import LabelledImages, write_labelled

PARTS: tuple[Part, ...] = ("test", "tune", "seeds", "train")
"""In this order they also take their share of the handwritten scans, train all that is left."""
TRAINING = "train.npz"


def images_recipe(task: SuiteTask, seed: int, scale: Scale) -> str:
    """What the images of a task depend on."""
    counts = [scale.per_class(part, len(task.classes)) for part in PARTS]
    return recipe(task.name, task.classes, seed, counts, task.source, canvas, shapes)


def write_images(folder: Path, name: str, seed: int, scale: Scale) -> None:
    """Write `folder/{test,tune,seeds}/<class>/NNNN.png` and the training images in one file; nothing if they are there."""
    task = task_named(name)
    by = images_recipe(task, seed, scale)
    if is_made(folder, by):
        return
    with making(folder, by) as made:
        for part in PARTS:
            split = make_part(task, part, seed, scale)
            if part == "train":
                np.savez(made / TRAINING, images=split.images, labels=split.labels)
            else:
                write_labelled(made / part, split, task.classes)


def read_training(folder: Path) -> LabelledImages:
    """The training images of a task."""
    with np.load(folder / TRAINING) as stored:
        return LabelledImages(stored["images"], stored["labels"])


def make_part(task: SuiteTask, part: Part, seed: int, scale: Scale) -> LabelledImages:
    """The images of one part in random order, the same for equal seeds. Parts share no scan and no random number."""
    rng = np.random.default_rng([seed, zlib.crc32(f"suite/{task.name}/{part}".encode())])
    count = scale.per_class(part, len(task.classes))
    drawn = _scanned(rng, part, seed, scale) if task.draw is None else _rendered(rng, task, count)
    images, labels = zip(*((photograph(rng, image), label) for image, label in drawn), strict=True)
    order = rng.permutation(len(labels))
    return LabelledImages(np.stack(images)[order], np.asarray(labels, np.int64)[order])


def _rendered(rng: np.random.Generator, task: SuiteTask, count: int) -> Iterator[tuple[Floats, int]]:
    assert task.draw is not None
    for label, name in enumerate(task.classes):
        for _ in range(count):
            yield task.draw(rng, name), label


def _scanned(rng: np.random.Generator, part: Part, seed: int, scale: Scale) -> Iterator[tuple[Floats, int]]:
    """Drawings of the part's own scans; where train asks for more images than it has scans, each is drawn again."""
    for label, scans in enumerate(handwritten_digits(np.random.default_rng([seed, zlib.crc32(b"suite/digits")]))):
        start = 0
        for other in PARTS:
            count = scale.per_class(other, 10)
            own = scans[start:] if other == "train" else scans[start : start + count]
            if other == part:
                for number in range(count):
                    yield draw_handwritten(rng, own[number % len(own)]), label
            start += count
