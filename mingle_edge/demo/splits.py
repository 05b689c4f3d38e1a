"""The images of a task in disjoint splits: drawn, and written as files."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mingle_edge.demo.canvas import Bytes, Floats, photograph
from mingle_edge.demo.digits import draw_handwritten, handwritten_digits
from mingle_edge.demo.tasks import ImageTask

Split = Literal["test", "tune", "seeds", "train"]
PerClass = Mapping[Split, int]
"""Images of a class. In this order the splits also take their share of the handwritten scans, train all that is left."""
DEMO: PerClass = {"test": 30, "seeds": 5, "train": 300}


@dataclass(frozen=True)
class LabeledImages:
    """Images of one split in random order."""

    images: Bytes  # [n, SIDE, SIDE, 3]
    labels: NDArray[np.int64]  # [n], class numbers


def make_split(task: ImageTask, split: Split, seed: int, per_class: PerClass = DEMO, stream: str = "") -> LabeledImages:
    """Draw the images of one split, the same for equal seeds and streams.

    Splits share no scan and no random number, so they are disjoint.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{stream}{task.name}/{split}".encode())])
    if task.draw is None:
        scans = handwritten_digits(np.random.default_rng([seed, zlib.crc32(f"{stream}digits".encode())]))
        drawn = _handwritten(rng, split, per_class, scans)
    else:
        drawn = ((task.draw(rng, name), n) for n, name in enumerate(task.classes) for _ in range(per_class[split]))
    images, labels = zip(*((photograph(rng, image), label) for image, label in drawn), strict=True)
    order = rng.permutation(len(labels))
    return LabeledImages(np.stack(images)[order], np.asarray(labels, np.int64)[order])


def write_labeled(folder: Path, split: LabeledImages, classes: tuple[str, ...]) -> None:
    """Write `folder/<class>/<number>.png`."""
    for name in classes:
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        Image.fromarray(image).save(folder / classes[label] / f"{number:04d}.png")


def write_unlabeled(folder: Path, split: LabeledImages) -> None:
    """Write `folder/<number>.png`; neither names nor order tell the labels."""
    folder.mkdir(parents=True)
    for number, image in enumerate(split.images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")


def _handwritten(
    rng: np.random.Generator, split: Split, per_class: PerClass, scans: list[Floats]
) -> Iterator[tuple[Floats, int]]:
    """Yield drawings of the split's own scans; where a split asks for more images than it has scans, each is drawn again."""
    splits = list(per_class)
    start = sum(per_class[earlier] for earlier in splits[: splits.index(split)])
    end = None if split == splits[-1] else start + per_class[split]
    for label, of_digit in enumerate(scans):
        own = of_digit[start:end]
        for number in range(per_class[split]):
            yield draw_handwritten(rng, own[number % len(own)]), label
