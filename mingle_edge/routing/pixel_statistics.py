"""Statistics of an image's pixels: what a router knows of it before any block of the backbone has run.

Magnitudes of filter responses at three scales, with their correlations within and between scales, are what Portilla and
Simoncelli describe textures by ("A parametric texture model based on joint statistics of complex wavelet coefficients", IJCV
2000, section 2); the filters here are those of the 3 x 3 discrete cosine transform, on opponent colors. Beside them stand
where in the image the magnitudes are, histograms, borders and a coarse picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.routing.pixel_filters import (
    BINS,
    BLACK,
    BORDER,
    CELLS,
    FAINT,
    LEAST_CONTRAST,
    RARE,
    SCALES,
    SPECK,
    cosine_filters,
    pixel_side,
)
from mingle_edge_runtime.bundle.index import Preprocess


def pixel_statistics(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Return statistics `[B, P]` of preprocessed images `[B, 3, S, S]`; P does not depend on S, which must be at least 4.

    In this order, the channels of each before the next: of every scale the logarithms of mean and root mean square of the
    magnitudes, the correlations of those of luminance with one another, the logarithms of their means in the quadrants, and
    from the second scale on their correlations with those of the scale before; then logarithms of the histograms' shares,
    mean and deviation of the four borders, and mean and logarithm of the deviation in the cells of the coarse picture.
    """
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    step, side = pixel_side(images.shape[-1])
    x = _without_specks(images[..., : side * step, : side * step] * std + mean)  # pixels in [0, 1]
    x = _with_contrast(F.avg_pool2d(x, step))  # [B, 3, side, side]
    parts: list[Tensor] = []
    filters, scaled, finer = torch.from_numpy(cosine_filters()).to(x), x, None
    for scale in range(SCALES):
        if scale:
            scaled = F.avg_pool2d(scaled, 2, ceil_mode=True)
        responses = F.conv2d(F.pad(scaled, [1] * 4, mode="replicate"), filters).abs()  # [B, 24, s, s]
        parts += [_log(responses.mean((2, 3)), FAINT), _log(responses.square().mean((2, 3)).sqrt(), FAINT)]
        luminance = responses[:, :8]
        own = _standardized(luminance)  # [B, 8, s s]
        upper = torch.triu_indices(8, 8, 1)
        parts.append((own @ own.mT)[:, upper[0], upper[1]])
        parts.append(_log(F.adaptive_avg_pool2d(luminance, 2), FAINT).flatten(1))
        if finer is not None:
            parts.append((_standardized(F.avg_pool2d(finer, 2, ceil_mode=True)) @ own.mT).flatten(1))
        finer = luminance
    return torch.cat([*parts, _histograms(x), *_borders(x), *_cells(x)], dim=1)


def _without_specks(x: Tensor) -> Tensor:
    """Return pixels without the black and white specks of a broken sensor or line, channel by channel.

    A value at the end of the range, far from the median of its neighborhood, becomes that median: of rows, then of columns.
    """
    padded = F.pad(x, [1] * 4, mode="replicate")
    rows = _median(padded[..., :-2], padded[..., 1:-1], padded[..., 2:])
    median = _median(rows[:, :, :-2], rows[:, :, 1:-1], rows[:, :, 2:])
    speck = ((x - median).abs() > SPECK) & ((x < BLACK) | (x > 1 - BLACK))
    return torch.where(speck, median, x)


def _median(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _with_contrast(x: Tensor) -> Tensor:
    """Return pixels with a deviation of at least `LEAST_CONTRAST`, so that haze changes little."""
    centered = x - x.mean((2, 3), keepdim=True)
    deviation = centered.square().mean((1, 2, 3), keepdim=True).sqrt()
    return x + centered * ((LEAST_CONTRAST / deviation.clamp(min=RARE)).clamp(min=1) - 1)


def _log(values: Tensor, floor: float) -> Tensor:
    return (values + floor).log()


def _standardized(magnitudes: Tensor) -> Tensor:
    """Return `[B, C, n]` of `[B, C, s, s]`, without the mean and of unit length; where there is next to nothing, shorter."""
    flat = magnitudes.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    return flat / (flat.square().sum(2, keepdim=True) + FAINT**2 * flat.shape[2]).sqrt()


def _histograms(x: Tensor) -> Tensor:
    """Return logarithms `[B, 3 BINS]` of the shares of each channel's values about `BINS` levels, each value between two."""
    levels = torch.arange(BINS, dtype=x.dtype, device=x.device).view(-1, 1)
    near = 1 - (x.flatten(2)[:, :, None] * (BINS - 1) - levels).abs()  # [B, 3, BINS, n]
    return _log(near.clamp(min=0).mean(3), RARE).flatten(1)


def _borders(x: Tensor) -> list[Tensor]:
    """Return means and deviations, each `[B, 3]`, of the strips at the top, the bottom, the left and the right."""
    reach = max(1, int(x.shape[-1] * BORDER))
    strips = [s.flatten(2) for s in (x[:, :, :reach], x[:, :, -reach:], x[..., :reach], x[..., -reach:])]
    return [part for strip in strips for part in (strip.mean(2), strip.std(2, correction=0))]


def _cells(x: Tensor) -> list[Tensor]:
    """Return means, and logarithms of deviations, of the cells of the coarse picture, each `[B, 3 CELLS CELLS]`."""
    size = x.shape[-1] // CELLS
    cells = x.reshape(-1, 3, CELLS, size, CELLS, size).transpose(3, 4).flatten(4)  # [B, 3, cells, cells, n]
    return [cells.mean(4).flatten(1), _log(cells.std(4, correction=0), RARE).flatten(1)]
