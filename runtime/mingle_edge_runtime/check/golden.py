"""`golden.npz`: images that travel with a bundle, the outputs that every machine must compute for them, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.head import Head
from mingle_edge_runtime.bundle.npy_file import NpyError, read_npy
from mingle_edge_runtime.bundle.stored_archive import ArchiveError, read_stored
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.scopes.prediction import label_probabilities
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.scope import Scope

Golden: TypeAlias = dict[str, NDArray[Any]]
"""The arrays of golden.npz by name, as docs/bundle-format.md has them."""
CLAIMED, UNCLAIMED = "classification, claimed", "classification, unclaimed"
"""Image scope: the labels of all tasks compete for an image that a task claims, and for one that none does."""


def read_golden(bundle: Bundle) -> Golden:
    """Read the images and all outputs that a bundle of its scope must have.

    Raises `BundleError` where the file cannot be read, is compressed, lacks an array or has one of another shape or type.
    """
    name = bundle.index.golden
    path, content = bundle.file(name), bundle.read(name)
    try:
        entries = read_stored(content, [f"{name}.npy" for name in ("images", *_shapes(bundle, 0))])
        golden = {name.removesuffix(".npy"): read_npy(array) for name, array in entries.items()}
    except (ArchiveError, NpyError) as error:
        raise BundleError(f"{path} cannot be read as arrays without pickle: {error}; export the bundle again") from error
    images = golden.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise _misfit(bundle, "it holds no uint8 images [n, H, W, 3]")
    for name, shape in _shapes(bundle, len(images)).items():
        if name not in golden:
            raise _misfit(bundle, f"it holds no {name} {list(shape)}")
        if golden[name].shape != shape or golden[name].dtype.kind != "f":
            raise _misfit(bundle, f"{name} is {golden[name].dtype} {list(golden[name].shape)} instead of float {list(shape)}")
    return golden


def golden_outputs(bundle: Bundle, scope: Scope, heads: Mapping[str, Head], pixels: NDArray[np.float32]) -> Golden:
    """Compute this machine's values of the golden outputs for `pixels [n, 3, S, S]`, by their names.

    heads: of all tasks, in the bundle's order.
    """

    def compete(embeds: NDArray[np.float32], routes: Sequence[Route]) -> NDArray[np.float64]:
        """Return probabilities `[n, labels of all tasks]`."""
        return np.stack([label_probabilities(*pair, heads) for pair in zip(embeds, routes, strict=True)])

    runs = scope.golden_runs(pixels)
    return runs.arrays | {"probabilities": np.stack([compete(*run) for run in runs.competitions])}


def least_cosines(bundle: Bundle, actual: Golden, golden: Golden) -> dict[str, float]:
    """Return the smallest cosine of each embedding among the images, by what it is."""
    titles = [f"expert {task}" for task in bundle.index.task_names]
    if bundle.index.scope == "layer":
        titles = [f"top_k {k}" for k in bundle.index.golden_top_k]
    plain = {"plain backbone": _cosine(actual["plain"], golden["plain"])} if "plain" in actual else {}
    return plain | {title: _cosine(actual["embeds"][i], golden["embeds"][i]) for i, title in enumerate(titles)}


def largest_differences(bundle: Bundle, actual: Golden, golden: Golden) -> dict[str, float]:
    """Return the largest difference of a probability or an expected loss, and of a confidence relative to itself, by part.

    Where no probability differs by more than d, the most probable label is the same wherever it leads by more than 2 d.
    """
    router = bundle.index.router
    if router is None:
        return {"classification": _difference(actual["probabilities"], golden["probabilities"])}
    scale = np.maximum(1, np.abs(golden["confidence"]))
    differences: dict[str, float] = {}
    for i, stage in enumerate(router.stages):
        for name in ("posterior", "losses"):
            differences[f"router {name}, {stage.name}"] = _difference(actual[name][i], golden[name][i])
        relative = _difference(actual["confidence"][i] / scale[i], golden["confidence"][i] / scale[i])
        differences[f"router confidence, {stage.name}"] = relative
    return differences | {
        CLAIMED: _difference(actual["probabilities"][0], golden["probabilities"][0]),
        UNCLAIMED: _difference(actual["probabilities"][1], golden["probabilities"][1]),
    }


def _shapes(bundle: Bundle, images: int) -> dict[str, tuple[int, ...]]:
    index = bundle.index
    count, dim = len(index.tasks), index.architecture.output_dim
    if index.scope == "layer":
        count = len(index.golden_top_k)
    labels = sum(len(task.labels) for task in index.tasks)
    shapes: dict[str, tuple[int, ...]] = {"embeds": (count, images, dim), "probabilities": (1, images, labels)}
    if index.router is not None:
        stages = len(index.router.stages)
        shapes |= {"plain": (images, dim), "posterior": (stages, images, count), "losses": (stages, images, count + 1)}
        shapes |= {"confidence": (stages, images), "probabilities": (2, images, labels)}
    return shapes


def _cosine(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float(np.min(np.nan_to_num(cosine, nan=-1.0)))  # NaN or zero outputs are as wrong as can be


def _difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual.astype(np.float64) - expected)
    return float(np.max(np.nan_to_num(difference, nan=1.0)))  # likewise


def _misfit(bundle: Bundle, what: str) -> BundleError:
    return BundleError(f"{bundle.file(bundle.index.golden)} does not fit the bundle: {what}; export it again")
