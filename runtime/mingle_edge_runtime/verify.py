"""Is this bundle intact, and does this machine compute it right? Hashes, and the golden outputs that travel with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.bundle_files import Progress
from mingle_edge_runtime.edge_model import EdgeModel
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.folded_scope import FoldedScope
from mingle_edge_runtime.layer_scope import LayerScope
from mingle_edge_runtime.preprocess import preprocess


@dataclass(frozen=True)
class Verification:
    """What `verify` found; hashes that differ raise instead."""

    files: int
    """files whose hash was right"""
    bytes: int
    """their size together"""
    cosines: dict[str, float]
    """per golden output, the smallest cosine among its images"""
    least_cosine: float
    """that each must have, as the bundle says"""
    notes: tuple[str, ...]
    """what this provider does differently, nodes that it leaves to another one included"""

    def check(self) -> None:
        """Raise `BundleError` naming the worst output where one has a smaller cosine than it must."""
        name, cosine = min(self.cosines.items(), key=lambda item: item[1])
        if not cosine >= self.least_cosine:
            raise BundleError(
                f"the bundle computes {name} with a cosine of {cosine:.6f} to the golden output, at least {self.least_cosine} "
                "is needed: try another provider or ONNX Runtime on this machine"
            )


def verify(
    path: str | PathLike[str],
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check every hash, then recompute the golden outputs.

    progress: called with bytes hashed and their total. Raises `BundleError` where the bundle is damaged.
    """
    bundle = Bundle.open(Path(path))
    bundle.verify_hashes(progress)
    golden = read_golden(bundle)
    with EdgeModel.open(path, None, providers, threads) as model:
        pixels = preprocess(golden["images"], bundle.index.preprocess)
        actual = golden_outputs(model, pixels)
        notes = model.stats().notes
    cosines: dict[str, float] = {}
    for name, array in actual.items():
        expected = golden.get(name, np.empty(0))
        if expected.shape != array.shape:
            raise _misfit(bundle, f"{name} is {list(expected.shape)} instead of {list(array.shape)}")
        cosines |= _cosines(name, array, expected, bundle)
    size = sum(file.size for file in bundle.index.files.values())
    return Verification(len(bundle.index.files), size, cosines, bundle.index.fidelity.golden_cosine, notes)


def read_golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The arrays of golden.npz. Raises `BundleError` where it cannot be read or holds no uint8 images."""
    path = bundle.file(bundle.index.golden)
    try:
        with np.load(path, allow_pickle=False) as file:
            golden = dict(file.items())
    except Exception as error:  # zip and npy readers raise errors of many types on broken files
        raise BundleError(f"{path} cannot be read as arrays without pickle: {error}; export the bundle again") from error
    images = golden.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise _misfit(bundle, "it holds no uint8 images [n, H, W, 3]")
    return golden


def golden_outputs(model: EdgeModel, pixels: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """This machine's values of the golden arrays, by their names."""
    scope = model.scope
    if isinstance(scope, LayerScope):
        return {"embeds": np.stack([scope.embed(pixels, top_k=k + 1)[0] for k in range(len(model.tasks))])}
    if isinstance(scope, FoldedScope):
        return {"embeds": scope.embed(pixels)[0][None]}
    routes = scope.route(pixels)
    return {
        "plain": scope.embed_plain(pixels),
        "posterior": np.array([route.posterior for route in routes]),
        "confidence": np.array([route.confidence for route in routes]),
        "embeds": np.stack([scope.embed(pixels, task)[0] for task in model.tasks]),
    }


def _cosines(name: str, actual: NDArray[Any], expected: NDArray[Any], bundle: Bundle) -> dict[str, float]:
    """The smallest cosine of two arrays along their last axis, one for each entry of `embeds`."""
    if name != "embeds":
        return {name: _cosine(actual, expected)}
    image = bundle.index.scope != "layer"
    titles = [f"expert {task}" if image else f"top_k {k}" for k, task in enumerate(bundle.index.task_names, 1)]
    return {title: _cosine(*pair) for title, *pair in zip(titles, actual, expected, strict=True)}


def _cosine(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float(np.min(np.nan_to_num(cosine, nan=-1.0)))  # NaN or zero outputs are as wrong as can be


def _misfit(bundle: Bundle, what: str) -> BundleError:
    return BundleError(f"{bundle.file(bundle.index.golden)} does not fit the bundle: {what}; export it again")
