"""Which images travel with a bundle of fewer bits: those whose outputs do not hang on how a processor rounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mingle_edge_export.graph.builder import Array

NOISE = 0.003
"""Standard deviation in units of `pixel_values`. It moves more 8-bit codes of activations than another processor does."""
DRAWS = 3


def steadiest(embed: Callable[[Array], NDArray[np.floating]], pixels: Array, count: int) -> NDArray[np.intp]:
    """Choose the `count` images whose embeddings change least when noise is added to their pixels.

    Two experts that are equally good for a layer, or two codes that are equally near, make an image a bad witness of whether a
    device computes right: rounding decides, and the embeddings of two right devices differ by more than is allowed.

    embed: `[n, 3, S, S]` -> `[..., n, dim]` of unit length. pixels: `[n, 3, S, S]`. Returns positions, the steadiest first.
    """
    random = np.random.default_rng(0)
    expected = embed(pixels)
    least = np.ones(len(pixels))
    for _ in range(DRAWS):
        noise = random.normal(0, NOISE, pixels.shape).astype(np.float32)
        cosines = (expected * embed(pixels + noise)).sum(-1)  # [..., n]
        least = np.minimum(least, cosines.reshape(-1, len(pixels)).min(0))
    return np.argsort(-least, kind="stable")[:count]
