"""Photographs that scikit-image and scikit-learn ship, cut into cells, of which a whole region is held out."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from mingle_edge.demo.canvas import Bytes
from mingle_edge.demo.splits import Split
from mingle_edge_runtime.images.image_file import read_image
from research.suite.real.packages import Package

SKIMAGE = Package("pip", "scikit-image", "0.26.0", "BSD-3-Clause; of each photograph: skimage/data/_fetchers.py")
COLUMNS = 8  # of cells; a cell is square
PHOTOS = {
    "bricks": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "coins": "coins.png",
    "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "moon": "moon.png",
    "retina": "retina.jpg",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "astronaut": "astronaut.png",
    "pagoda": "china.jpg",
    "flower": "flower.jpg",
}
_OF_SKLEARN = ("china.jpg", "flower.jpg")


def photo_files(sources: Path) -> list[Path]:
    """Return the files of the photographs, one of a class."""
    sklearn = Path(str(resources.files("sklearn.datasets.images")))
    return [
        sklearn / name if name in _OF_SKLEARN else SKIMAGE.file(sources, f"skimage/data/{name}") for name in PHOTOS.values()
    ]


def cells(sources: Path, split: Split) -> list[list[Bytes]]:
    """Return cells `[h, h, 3]` per photograph: its right quarter for the test, the column beside it for tuning.

    Of the rest every fifth cell is for the seeds, the others for training.
    """
    return [_of_split(np.asarray(read_image(path).convert("RGB")), split) for path in photo_files(sources)]


def _of_split(photo: Bytes, split: Split) -> list[Bytes]:
    side = photo.shape[1] // COLUMNS
    rows = range(photo.shape[0] // side)
    columns = {"test": range(6, 8), "tune": range(5, 6)}.get(split, range(5))
    found = [photo[side * row : side * (row + 1), side * column : side * (column + 1)] for row in rows for column in columns]
    if split in ("test", "tune"):
        return found
    return [cell for number, cell in enumerate(found) if (number % 5 == 2) == (split == "seeds")]
