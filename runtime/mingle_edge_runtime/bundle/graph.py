"""A graph that ONNX Runtime is to load, and the files that it reads its weights from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mingle_edge_runtime.bundle.mapped_file import MappedFile


@dataclass(frozen=True)
class Graph:
    """One of a bundle's graphs, checked."""

    path: Path
    """what to call it"""
    location: Path
    """where ONNX Runtime opens it and, beside it, its weights"""
    weights: tuple[MappedFile, ...]
    """its external data, looked at before every run"""
    check_located: Callable[[], None]
    """raises `BundleError` where what ONNX Runtime opened by `location` is not what was checked"""
