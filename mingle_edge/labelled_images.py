"""Images with classes, and the few of them that are drawn as seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from mingle_edge.errors import ImageFolderError
from mingle_edge.image_source import WHOLE, ImageSource
from mingle_edge.images import labelled_images, list_images
from mingle_edge.seeds import task_generator
from mingle_edge.task_file import TaskSource


class LabelledImages(Protocol):
    """Images by number, with their classes; those that are not asked for need not exist as files."""

    labels: list[int]  # class numbers

    def paths(self, numbers: Sequence[int]) -> list[Path]:
        """Files of the images with these numbers."""


class _Files:
    """Images that are files already."""

    def __init__(self, pairs: list[tuple[Path, int]]) -> None:
        self.labels = [label for _, label in pairs]
        self._paths = [path for path, _ in pairs]

    def paths(self, numbers: Sequence[int]) -> list[Path]:
        return [self._paths[n] for n in numbers]


def labelled_paths(source: ImageSource, base: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Every image of a labelled source with the number of its class, relative paths starting from `base`.

    Raises:
        ImageFolderError: nothing there, classes that do not match, or a class without images.
    """
    images, chosen = _open(source, base, classes)
    numbers = sorted(number for of_class in chosen for number in of_class)
    return [(path, images.labels[n]) for path, n in zip(images.paths(numbers), numbers, strict=True)]


def draw_seeds(source: ImageSource, base: Path, classes: Sequence[str], per_class: int, seed: int) -> list[Path]:
    """`per_class` images of every class of a labelled source, drawn at random, in an order that says nothing of classes.

    The draw depends on `seed`, the class's name and its images, and on nothing else; a smaller draw is part of a larger one.

    Raises:
        ImageFolderError: as `labelled_paths`, or a class has fewer images.
    """
    if per_class == 0:
        return []
    images, chosen = _open(source, base, classes)
    drawn: list[int] = []
    for name, numbers in zip(classes, chosen, strict=True):
        if len(numbers) < per_class:
            raise ImageFolderError(
                f"{source.files}: class {name!r} has {len(numbers)} images, and {per_class} seeds of each class are asked for; "
                "add images, or ask for fewer"
            )
        order = torch.randperm(len(numbers), generator=task_generator(seed, name, "seeds"))
        drawn += [numbers[i] for i in order[:per_class].tolist()]
    shuffled = torch.randperm(len(drawn), generator=task_generator(seed, "", "order of seeds"))
    return images.paths([drawn[i] for i in shuffled.tolist()])


def seed_paths(task: TaskSource, base: Path, seed: int) -> list[Path]:
    """The seed images of a task: all of its folder, or those drawn from a labelled source with the settings' `seed`."""
    if task.seeds_per_class is None:
        return list_images(base / task.seeds.files)
    return draw_seeds(task.seeds, base, task.classes, task.seeds_per_class, seed)


def _open(source: ImageSource, base: Path, classes: Sequence[str]) -> tuple[LabelledImages, list[list[int]]]:
    """The images of a source, and by class the numbers of those in its share."""
    images: LabelledImages = _Files(labelled_images(source.files, base, classes))
    by_class: list[list[int]] = [[] for _ in classes]
    for number, label in enumerate(images.labels):
        by_class[label].append(number)
    if source.share != WHOLE:
        by_class = [_shared(numbers, source.share) for numbers in by_class]
    for name, numbers in zip(classes, by_class, strict=True):
        if not numbers:
            raise ImageFolderError(
                f"{source.files}: class {name!r} has no image in the share {list(source.share)}; widen it, or add images"
            )
    return images, by_class


def _shared(numbers: list[int], share: tuple[float, float]) -> list[int]:
    """The part of a class's images between two fractions; parts with a common border divide them without a rest."""
    mixed = sorted(numbers, key=lambda number: hashlib.sha256(str(number).encode()).digest())
    first, last = (round(fraction * len(mixed)) for fraction in share)
    return mixed[first:last]
