"""The golden outputs of a bundle of fewer bits: its own, on images that do not hang on how a processor rounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_export.check.reference import GOLDEN_IMAGES, Reference
from mingle_edge_export.graph.builder import Array
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.head import read_heads
from mingle_edge_runtime.check.golden import golden_outputs

NOISE = 0.003
"""Standard deviation in units of `pixel_values`. It moves more 8-bit codes of activations than another processor does."""
DRAWS = 3


def own_golden(bundle: Bundle, reference: Reference) -> dict[str, NDArray[Any]]:
    """Return the arrays of golden.npz as the bundle's own graphs compute them, with which devices must agree.

    In the layer scope they are those of the `steadiest` images; in the other scopes no embedding depends on a route.
    """
    with EdgeModel.open(bundle) as model:
        golden = partial(golden_outputs, bundle, model.scope, read_heads(bundle))
        chosen = np.arange(GOLDEN_IMAGES)
        if bundle.index.scope == "layer":
            chosen = steadiest(lambda pixels: golden(pixels)["embeds"], reference.pixels, GOLDEN_IMAGES)
        return {"images": reference.images[chosen], **golden(reference.pixels[chosen])}


def steadiest(embed: Callable[[Array], NDArray[np.floating]], pixels: Array, count: int) -> NDArray[np.intp]:
    """Choose the `count` images whose embeddings change least when noise is added to their pixels.

    Two experts that are equally good for a layer, or two codes that are equally near, make an image a bad witness of whether a
    device computes right: rounding decides, and the embeddings of two right devices differ by more than is allowed.

    embed: `[n, 3, S, S]` -> `[..., n, dim]`. pixels: `[n, 3, S, S]`. Returns positions, the steadiest first.
    """
    random = np.random.default_rng(0)
    expected = embed(pixels)
    least = np.ones(len(pixels))
    for _ in range(DRAWS):
        noise = random.normal(0, NOISE, pixels.shape).astype(np.float32)
        moved = embed(pixels + noise)
        cosines = (expected * moved).sum(-1) / (np.linalg.norm(expected, axis=-1) * np.linalg.norm(moved, axis=-1))  # [..., n]
        least = np.minimum(least, cosines.reshape(-1, len(pixels)).min(0))
    return np.argsort(-least, kind="stable")[:count]
