"""Golden images are those on which two right devices agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mingle_edge_export.check.golden_images import steadiest

MARGINS = (0.0001, 0.2, -0.0002, 0.01, -0.3, 0.0)


def _routed(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings `[2, n, 2]`: by one of two experts, whichever the mean of an image asks for, and by one for all."""
    means = pixels.mean((1, 2, 3))
    routed = np.where(means[:, None] > 0, [1.0, 0.0], [0.0, 1.0])
    return np.stack([routed, np.broadcast_to([1.0, 0.0], routed.shape)]).astype(np.float32)


def test_images_far_from_a_tie_are_chosen() -> None:
    pixels = np.stack([np.full((3, 2, 2), margin, np.float32) for margin in MARGINS])
    for count in (1, 3):
        chosen = steadiest(_routed, pixels, count)
        assert len(chosen) == count
        assert set(chosen) <= {1, 3, 4}  # noise moves a mean by at most a hundredth


def test_equally_steady_images_keep_their_order() -> None:
    pixels = np.ones((4, 3, 2, 2), np.float32)
    assert steadiest(_routed, pixels, 4).tolist() == [0, 1, 2, 3]
