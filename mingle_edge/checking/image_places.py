"""Where images lie below folders, and which task and split each place is of."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mingle_edge.data.image_folder import suffixes
from mingle_edge.data.image_source import CLASS

Split = Literal["seeds", "tune", "test"]
SPLITS: dict[Split, tuple[str, ...]] = {
    "seeds": ("seeds", "calibration", "calib", "unlabeled", "train", "training"),
    "tune": ("tune", "val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
"""What folders and files of a split are called, those of the first choice first."""
_DEEPEST = 6  # folders below one that was given
_ENOUGH = 10  # images looked at in a folder


@dataclass(frozen=True)
class ImagePlace:
    """Images of one task and split."""

    task: str
    split: Split | None  # None: nothing says which
    files: str  # as a task file names them, an absolute path
    classes: list[str]  # names of class folders, sorted; empty where there are none
    fewest: int  # images of a class, as far as they were counted; 0 without classes
    choice: int  # the smaller, the earlier in `SPLITS`


def find_images(folders: Sequence[Path], tasks: Collection[str]) -> list[ImagePlace]:
    """Return the places of images below folders whose path names a task: class folders, folders of images, parquet files."""
    places = [place for folder in folders if folder.is_dir() for place in _places(folder, (folder.name,), tasks, 0)]
    once = {place.files: place for place in places}.values()  # where folders were given that lie in one another
    return sorted(once, key=lambda place: (place.choice, place.files))


def folded(name: str) -> str:
    """Return a name without case and without what separates words."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _places(folder: Path, parts: tuple[str, ...], tasks: Collection[str], depth: int) -> Iterator[ImagePlace]:
    """Yield the places in a folder; parts: the names on the way to it."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return  # told by the search for checkpoints
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    inside = [path for path in entries if path.is_dir()]
    named = {folded(name) for name in tasks} | {word for words in SPLITS.values() for word in words}
    parquet = [path for path in entries if path.suffix == ".parquet"]
    for prefix in dict.fromkeys(re.split(r"[-_.]", path.name)[0] for path in parquet):
        yield from _place(f"{folder}/{prefix}*.parquet", (*parts, prefix), tasks)
    if _images(folder):
        yield from _place(str(folder), parts, tasks)
        return
    classes = [path for path in inside if _images(path) and folded(path.name) not in named]
    if 2 <= len(classes) > len(inside) / 2:
        fewest = min(_images(path) for path in classes)
        yield from _place(f"{folder}/{CLASS}/*", parts, tasks, [path.name for path in classes], fewest)
    elif depth < _DEEPEST:
        for path in inside:
            yield from _places(path, (*parts, path.name), tasks, depth + 1)


def _place(
    files: str, parts: tuple[str, ...], tasks: Collection[str], classes: Sequence[str] = (), fewest: int = 0
) -> Iterator[ImagePlace]:
    """Yield the place of files, where a task is named on the way to them."""
    words = [folded(part) for part in parts]
    task = next((name for word in reversed(words) for name in tasks if folded(name) == word), None)
    if task is None:
        return
    for word in reversed(words):
        for split, names in SPLITS.items():
            if word in names:
                yield ImagePlace(task, split, files, list(classes), fewest, names.index(word))
                return
    yield ImagePlace(task, None, files, list(classes), fewest, 0)


def _images(folder: Path) -> int:
    """Count images in a folder itself, as their suffixes say, at most a few."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return 0
    count = 0
    for path in folder.iterdir():
        count += path.suffix.lower() in suffixes() and not path.name.startswith(".")
        if count == _ENOUGH:
            break
    return count
