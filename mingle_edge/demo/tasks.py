"""The four image tasks of the demonstration and their splits."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mingle_edge.demo.canvas import Bytes, Floats, photograph
from mingle_edge.demo.digits import DIGITS, draw_handwritten, handwritten_digits
from mingle_edge.demo.satellite import LANDS, draw_land
from mingle_edge.demo.signs import SIGNS, draw_sign
from mingle_edge.demo.textures import TEXTURES, draw_texture

Split = Literal["train", "seeds", "test"]
PER_CLASS: dict[Split, int] = {"test": 30, "seeds": 5, "train": 300}
"""Images of a class. In this order they also take their share of the handwritten scans, train all that is left."""


@dataclass(frozen=True)
class DemoTask:
    """One image classification task."""

    name: str
    classes: tuple[str, ...]
    template: str  # of a prompt, {} for the class
    draw: Callable[[np.random.Generator, str], Floats] | None  # None for the digits, which are scans


@dataclass(frozen=True)
class LabelledImages:
    """Images of one split in random order."""

    images: Bytes  # [n, SIDE, SIDE, 3]
    labels: NDArray[np.int64]  # [n], class numbers


TASKS = (
    DemoTask("digits", DIGITS, "a photo of a handwritten digit {}.", None),
    DemoTask("textures", tuple(TEXTURES), "a photo of a {} texture.", draw_texture),
    DemoTask("signs", tuple(SIGNS), "a photo of a {} traffic sign.", draw_sign),
    DemoTask("satellite", tuple(LANDS), "a satellite photo of a {} from above.", draw_land),
)
"""In the order of merging."""


def make_split(task: DemoTask, split: Split, seed: int = 0) -> LabelledImages:
    """The images of one split, the same for equal seeds. Splits share no scan and no random number, so they are disjoint."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{task.name}/{split}".encode())])
    drawn = _digits(rng, split, seed) if task.draw is None else _rendered(rng, task.draw, task.classes, split)
    images, labels = zip(*((photograph(rng, image), label) for image, label in drawn), strict=True)
    order = rng.permutation(len(labels))
    return LabelledImages(np.stack(images)[order], np.asarray(labels, np.int64)[order])


def write_labelled(folder: Path, split: LabelledImages, classes: tuple[str, ...]) -> None:
    """Write `folder/<class>/<number>.png`."""
    for name in classes:
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        Image.fromarray(image).save(folder / classes[label] / f"{number:04d}.png")


def write_unlabelled(folder: Path, split: LabelledImages) -> None:
    """Write `folder/<number>.png`; neither names nor order tell the labels."""
    folder.mkdir(parents=True)
    for number, image in enumerate(split.images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")


def _rendered(
    rng: np.random.Generator, draw: Callable[[np.random.Generator, str], Floats], classes: tuple[str, ...], split: Split
) -> Iterator[tuple[Floats, int]]:
    for label, name in enumerate(classes):
        for _ in range(PER_CLASS[split]):
            yield draw(rng, name), label


def _digits(rng: np.random.Generator, split: Split, seed: int) -> Iterator[tuple[Floats, int]]:
    """Drawings of the split's own scans; where a split asks for more images than it has scans, each is drawn again."""
    for label, scans in enumerate(handwritten_digits(np.random.default_rng([seed, zlib.crc32(b"digits")]))):
        test, seeds = PER_CLASS["test"], PER_CLASS["seeds"]
        own = {"test": scans[:test], "seeds": scans[test : test + seeds], "train": scans[test + seeds :]}[split]
        for number in range(PER_CLASS[split]):
            yield draw_handwritten(rng, own[number % len(own)]), label
