"""Statistics of the pixels against the same in numpy and scipy, and what they do not depend on."""

import numpy as np
import pytest
import torch
from scipy import fft, ndimage

from mingle_edge.routing.layout import PIXELS
from mingle_edge.routing.pixel_filters import BLACK, FAINT, LEAST_CONTRAST, OPPONENT, RARE, SPECK
from mingle_edge.routing.pixel_statistics import pixel_statistics
from mingle_edge_runtime.bundle.index import Preprocess


def pictures(size, count=3, seed=0):
    """Pixels `[n, 3, size, size]` in [0, 1]: blobs, noise and edges, with flat parts."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.standard_normal((count, 3, size, size)), (0, 0, size / 12, size / 12))
    pixels = 0.5 + 0.3 * smooth / smooth.std() + 0.05 * random.standard_normal(smooth.shape)
    pixels[:, :, : size // 3, : size // 2] = random.random((count, 3, 1, 1))
    return pixels.clip(0, 1)


def statistics(pixels, preprocess=None):
    preprocess = preprocess or Preprocess(pixels.shape[-1])
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return pixel_statistics(torch.from_numpy((pixels - mean) / std), preprocess).numpy()


def means_of_blocks(x, step):
    """`[C, h, w]` averaged over step x step; a last block that is not full, over what there is of it."""
    rows, columns = (range(0, side, step) for side in x.shape[1:])
    return np.stack([[x[:, i : i + step, j : j + step].mean((1, 2)) for j in columns] for i in rows]).transpose(2, 0, 1)


def correlations(a, b):
    """Between channels of `[C, s, s]` and of `[D, s, s]`, drawn to 0 where next to nothing varies, `[C, D]`."""

    def one(first, second):
        first, second = first.ravel() - first.mean(), second.ravel() - second.mean()
        lengths = [np.sqrt((part**2).sum() + FAINT**2 * part.size) for part in (first, second)]
        return first @ second / np.prod(lengths)

    return np.array([[one(first, second) for second in b] for first in a])


def without_specks(x):
    """Of each channel, the values at the ends of the range that are far from their surroundings' median replaced by it."""
    median = ndimage.median_filter(ndimage.median_filter(x, (1, 1, 3), mode="nearest"), (1, 3, 1), mode="nearest")
    at_the_ends = (x < BLACK) | (x > 1 - BLACK)
    return np.where(at_the_ends & (np.abs(x - median) > SPECK), median, x)


def reference(pixels):
    """All parts of one image's statistics `[3, S, S]`, by loops."""
    step = max(1, pixels.shape[-1] // 56)
    side = pixels.shape[-1] // step // 4 * 4
    x = without_specks(pixels[:, : side * step, : side * step])
    x = means_of_blocks(x, step)
    middle = x.mean((1, 2), keepdims=True)
    x = middle + (x - middle) * max(1, LEAST_CONTRAST / max(np.sqrt(((x - middle) ** 2).mean()), RARE))
    cosines = fft.dct(np.eye(3), norm="ortho", axis=0)
    planes = [np.outer(cosines[u], cosines[v]) for u in range(3) for v in range(3)][1:]
    parts, scaled, finer = [], x, None
    for scale in range(3):
        if scale:
            scaled = means_of_blocks(scaled, 2)
        opponents = [sum(w * channel for w, channel in zip(weights, scaled, strict=True)) for weights in OPPONENT]
        magnitudes = np.abs([ndimage.correlate(o, plane, mode="nearest") for o in opponents for plane in planes])
        parts.append(np.log(magnitudes.mean((1, 2)) + FAINT))
        parts.append(np.log(np.sqrt((magnitudes**2).mean((1, 2))) + FAINT))
        luminance, half = magnitudes[:8], magnitudes.shape[-1] / 2
        own = correlations(luminance, luminance)
        parts.append(np.array([own[i, j] for i in range(8) for j in range(i + 1, 8)]))
        near, far = slice(0, int(np.ceil(half))), slice(int(half), None)
        parts.append(np.array([[np.log(m[i, j].mean() + FAINT) for i in (near, far) for j in (near, far)] for m in luminance]))
        if finer is not None:
            parts.append(correlations(means_of_blocks(finer, 2), luminance))
        finer = luminance
    levels = x.reshape(3, -1) * 15
    shares = [[np.maximum(1 - np.abs(channel - level), 0).mean() for level in range(16)] for channel in levels]
    parts.append(np.log(np.array(shares) + RARE))
    reach = max(1, side // 16)
    for strip in (x[:, :reach], x[:, -reach:], x[:, :, :reach], x[:, :, -reach:]):
        parts += [strip.mean((1, 2)), strip.std((1, 2))]
    cells = x.reshape(3, 4, side // 4, 4, side // 4)
    parts += [cells.mean((2, 4)), np.log(cells.std((2, 4)) + RARE)]
    return np.concatenate([part.ravel() for part in parts])


@pytest.mark.parametrize("size", [4, 9, 32, 50, 57, 120])
def test_every_part_is_what_numpy_and_scipy_make_of_it(size):
    pixels = pictures(size)
    found = statistics(pixels)
    assert found.shape == (3, PIXELS)
    # Filters and opponent colors are in float32 by design.
    np.testing.assert_allclose(found, [reference(image) for image in pixels], atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("times", [2, 4])
def test_a_finer_source_of_the_same_image_changes_nothing(times):
    small = pictures(56).clip(0.1, 0.9)  # no specks, which are of one pixel
    np.testing.assert_allclose(
        statistics(small.repeat(times, axis=2).repeat(times, axis=3)), statistics(small), atol=1e-6, rtol=1e-6
    )


def test_what_preprocessing_makes_of_pixels_is_undone():
    pixels = pictures(32)
    other = Preprocess(32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.5, 1.0))
    np.testing.assert_allclose(statistics(pixels, other), statistics(pixels), atol=1e-6, rtol=1e-6)


def test_images_do_not_depend_on_their_batch_mates():
    images = torch.from_numpy(pictures(32, count=4)).float()
    together = pixel_statistics(images, Preprocess(32))
    alone = torch.cat([pixel_statistics(image[None], Preprocess(32)) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_image_of_one_color_has_finite_statistics(value):
    assert np.isfinite(statistics(np.full((1, 3, 32, 32), value))).all()
