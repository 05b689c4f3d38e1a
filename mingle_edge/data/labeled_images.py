"""Finding the images that a task file names: labeled ones, and the calibration images drawn from them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import permutation, task_generator
from mingle_edge.data.data_set import open_data_set, open_table
from mingle_edge.data.found_images import FoundImages
from mingle_edge.data.hub import local_path, rooted
from mingle_edge.data.image_folder import list_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.image_source import WHOLE, ImageSource
from mingle_edge.data.labeled_source import FolderImages, LabeledSource
from mingle_edge.data.sharded_images import ShardedImages
from mingle_edge.data.shards import find_shards
from mingle_edge.data.task_file import TaskSource


def read_labeled(source: ImageSource, base: Path, classes: Sequence[str], progress: Progress = silent) -> ImageSet:
    """Return every image of a labeled source with the number of its class, relative paths starting from `base`.

    Raises:
        ImageFolderError: nothing there, classes that do not match, or a class without images.
        HubError: the source is on the hub, and the hub or the cache does not have it.
    """
    images, by_class, found = _open(source, base, classes, progress)
    numbers = sorted(number for of_class in by_class for number in of_class)
    return ImageSet(images.paths(numbers, progress), [images.labels[n] for n in numbers], found=found)


def draw_calibration_images(
    source: ImageSource, base: Path, classes: Sequence[str], per_class: int, seed: int, progress: Progress = silent
) -> ImageSet:
    """Draw `per_class` images of every class of a labeled source at random, in an order that says nothing of classes.

    The draw depends on `seed`, the class's name and its images, and on nothing else; a smaller draw is part of a larger one.

    Raises:
        ImageFolderError: as `read_labeled`, or a class has fewer images.
    """
    if per_class == 0:
        return ImageSet([])
    images, by_class, found = _open(source, base, classes, progress)
    drawn: list[int] = []
    for name, numbers in zip(classes, by_class, strict=True):
        if len(numbers) < per_class:
            raise ImageFolderError(
                f"{source.files}: class {name!r} has {len(numbers)} images, and {per_class} seeds of each class are asked for; "
                "add images, or ask for fewer"
            )
        drawn += [numbers[i] for i in permutation(len(numbers), task_generator(seed, name, "seeds"))[:per_class]]
    order = permutation(len(drawn), task_generator(seed, "", "order of seeds"))
    return ImageSet(images.paths([drawn[i] for i in order], progress), found=found)


def read_calibration_images(task: TaskSource, base: Path, seed: int, progress: Progress = silent) -> ImageSet:
    """Return a task's calibration images, the task file's `seeds`, which is what the paper calls them.

    They are all images of a folder, or those drawn from a labeled source with the settings' `seed`. Raises as
    `draw_calibration_images`.
    """
    if task.seeds_per_class is None:
        skipped: Counter[str] = Counter()
        paths = list_images(local_path(task.seeds.files, base), skipped)
        return ImageSet(paths, found=FoundImages(task.seeds.files, len(paths), skipped=dict(skipped)))
    return draw_calibration_images(task.seeds, base, task.classes, task.seeds_per_class, seed, progress)


def _open(
    source: ImageSource, base: Path, classes: Sequence[str], progress: Progress
) -> tuple[LabeledSource, list[list[int]], FoundImages]:
    """Open a source. Returns by class the numbers of the images in its share as well, and what was found."""
    images = _open_kind(source, base, classes)
    by_class: list[list[int]] = [[] for _ in classes]
    for number, label in enumerate(images.labels):
        by_class[label].append(number)
    skipped = dict(images.skipped)
    if source.share != WHOLE:
        by_class = [_shared(numbers, source.share) for numbers in by_class]
        if rest := len(images.labels) - sum(map(len, by_class)):
            skipped["outside of the share"] = rest
    for name, numbers in zip(classes, by_class, strict=True):
        if not numbers:
            where = "" if source.share == WHOLE else f" in the share {list(source.share)}"
            raise ImageFolderError(f"{source.files}: class {name!r} has no image{where}; add images, or correct what is named")
    per_class = {name: len(numbers) for name, numbers in zip(classes, by_class, strict=True)}
    taken = f"{source.files}, {images.taken}" if images.taken else source.files
    if source.kind == "folder":  # which part of it was read is not in its name
        progress("data set", 1, 1, taken)
    return images, by_class, FoundImages(taken, sum(per_class.values()), per_class, skipped)


def _open_kind(source: ImageSource, base: Path, classes: Sequence[str]) -> LabeledSource:
    if source.kind == "folder":
        return open_data_set(source, base, classes)
    if source.kind == "list":
        return open_table(source, base, classes)
    folder, files = rooted(source.files, base)
    if source.kind == "class folders":
        return FolderImages(files, folder, classes)
    paths = find_shards(files, folder, PurePath(files).suffix.removeprefix("."))
    return ShardedImages(paths, source, classes, parquet=source.kind == "parquet")


def _shared(numbers: list[int], share: tuple[float, float]) -> list[int]:
    """Return the part of a class's images between two fractions; parts with a common border divide them without a rest."""
    mixed = sorted(numbers, key=lambda number: hashlib.sha256(str(number).encode()).digest())
    first, last = (round(fraction * len(mixed)) for fraction in share)
    return mixed[first:last]
