"""Image scope: statistics of the pixels as part of a graph, the twin of `mingle_edge/routing/pixel_statistics.py`."""

from __future__ import annotations

import numpy as np

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
from mingle_edge_export.graph.builder import Graph
from mingle_edge_runtime.bundle.index import Preprocess

LUMINANCE = 8  # filters of it, the first of all


def pixel_statistics(graph: Graph, pixel_values: str, preprocess: Preprocess) -> str:
    """Add statistics `[batch, P]` of images `[batch, 3, S, S]`, S = `preprocess.image_size`, which must be at least 4."""
    whole = side = pixel_side(preprocess.image_size)[1]
    x = _pixels(graph, pixel_values, preprocess)  # [batch, 3, side, side]
    filters = graph.constant(cosine_filters())
    parts: list[str] = []
    scaled, finer = x, ""
    for scale in range(SCALES):
        if scale:  # CELLS are even, and so are the sides: no window is cut off
            scaled, side = _average(graph, scaled, 2), side // 2
        padded = graph.op("Pad", scaled, graph.integers(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
        responses = graph.op("Abs", graph.op("Conv", padded, filters))  # [batch, 24, side, side]
        squares = graph.op("ReduceMean", graph.op("Mul", responses, responses), axes=[2, 3], keepdims=0)
        parts += [
            _log(graph, graph.op("ReduceMean", responses, axes=[2, 3], keepdims=0), FAINT),
            _log(graph, graph.op("Sqrt", squares), FAINT),
        ]
        luminance = graph.op("Slice", responses, *(graph.integers(i) for i in (0, LUMINANCE, 1)))  # [batch, 8, side, side]
        own = _standardized(graph, luminance, side)
        transposed = graph.op("Transpose", own, perm=[0, 2, 1])  # [batch, side side, 8]
        correlations = _flat(graph, graph.op("MatMul", own, transposed), LUMINANCE**2)
        upper = np.flatnonzero(np.triu(np.ones((LUMINANCE, LUMINANCE)), 1))
        parts.append(graph.op("Gather", correlations, graph.integers(*upper.tolist()), axis=1))
        parts.append(_flat(graph, _log(graph, _quadrants(graph, luminance, side), FAINT), 4 * LUMINANCE))
        if finer:
            before = _standardized(graph, _average(graph, finer, 2), side)
            parts.append(_flat(graph, graph.op("MatMul", before, transposed), LUMINANCE**2))
        finer = luminance
    parts += [_histograms(graph, x, whole), *_borders(graph, x, whole), *_cells(graph, x, whole)]
    return graph.op("Concat", *parts, axis=1)


def _pixels(graph: Graph, x: str, preprocess: Preprocess) -> str:
    """Add pixels in [0, 1], averaged, without what does not fill the last cell."""
    step, side = pixel_side(preprocess.image_size)
    if step * side < preprocess.image_size:
        x = graph.op("Slice", x, graph.integers(0, 0), graph.integers(step * side, step * side), graph.integers(2, 3))
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    x = graph.op("Add", graph.op("Mul", x, graph.constant(std)), graph.constant(mean))  # first: white is then exactly that
    x = _without_specks(graph, x, step * side)
    return _with_contrast(graph, _average(graph, x, step) if step > 1 else x, side)


def _without_specks(graph: Graph, x: str, side: int) -> str:
    """Add `[batch, 3, side, side]` with medians of 3 x 3 in place of specks."""
    padded = graph.op("Pad", x, graph.integers(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
    median = padded
    for axis in (3, 2):
        a, b, c = (graph.op("Slice", median, *(graph.integers(i) for i in (start, start + side, axis))) for start in (0, 1, 2))
        median = graph.op("Max", graph.op("Min", a, b), graph.op("Min", graph.op("Max", a, b), c))
    far = graph.op("Greater", graph.op("Abs", graph.op("Sub", x, median)), graph.scalar(SPECK))
    black, white = graph.op("Less", x, graph.scalar(BLACK)), graph.op("Greater", x, graph.scalar(1 - BLACK))
    return graph.op("Where", graph.op("And", far, graph.op("Or", black, white)), median, x)


def _with_contrast(graph: Graph, x: str, side: int) -> str:
    """Add `[batch, 3, side, side]` with a deviation of at least `LEAST_CONTRAST`."""
    # Row by row, as one long sum in float32 would leave a difference that is then made larger.
    mean = graph.op("ReduceMean", graph.op("ReduceMean", x, axes=[3], keepdims=1), axes=[2], keepdims=1)
    centered = graph.op("Sub", x, mean)
    deviation = graph.op("Sqrt", graph.op("ReduceMean", graph.op("Mul", centered, centered), axes=[1, 2, 3], keepdims=1))
    gain = graph.op("Div", graph.scalar(LEAST_CONTRAST), graph.op("Max", deviation, graph.scalar(RARE)))
    more = graph.op("Sub", graph.op("Max", gain, graph.scalar(1)), graph.scalar(1))
    return graph.op("Add", x, graph.op("Mul", centered, more))


def _average(graph: Graph, x: str, size: int, stride: int | None = None) -> str:
    return graph.op("AveragePool", x, kernel_shape=[size, size], strides=[stride or size] * 2)


def _log(graph: Graph, values: str, floor: float) -> str:
    return graph.op("Log", graph.op("Add", values, graph.scalar(floor)))


def _flat(graph: Graph, x: str, count: int) -> str:
    return graph.op("Reshape", x, graph.integers(-1, count))


def _standardized(graph: Graph, magnitudes: str, side: int) -> str:
    """Add `[batch, 8, n]` of `[batch, 8, side, side]`, without the mean and of unit length, shorter if there is little."""
    n = side * side
    flat = graph.op("Reshape", magnitudes, graph.integers(-1, LUMINANCE, n))
    flat = graph.op("Sub", flat, graph.op("ReduceMean", flat, axes=[2], keepdims=1))
    power = graph.op("ReduceSumSquare", flat, axes=[2], keepdims=1)
    return graph.op("Div", flat, graph.op("Sqrt", graph.op("Add", power, graph.scalar(FAINT**2 * n))))


def _quadrants(graph: Graph, x: str, side: int) -> str:
    """Add means `[batch, 8, 2, 2]` over the quadrants of `[batch, 8, side, side]`, which share the middle of an odd side."""
    if side == 1:
        return graph.op("Tile", x, graph.integers(1, 1, 2, 2))
    return _average(graph, x, side - side // 2, side // 2)


def _histograms(graph: Graph, x: str, side: int) -> str:
    levels = graph.constant(np.arange(BINS, dtype=np.float32).reshape(BINS, 1))
    values = graph.op("Mul", graph.op("Reshape", x, graph.integers(-1, 3, 1, side * side)), graph.scalar(BINS - 1))
    away = graph.op("Abs", graph.op("Sub", values, levels))  # [batch, 3, BINS, n]
    near = graph.op("Relu", graph.op("Sub", graph.scalar(1), away))
    shares = graph.op("ReduceMean", near, axes=[3], keepdims=0)
    return _flat(graph, _log(graph, shares, RARE), 3 * BINS)


def _borders(graph: Graph, x: str, side: int) -> list[str]:
    """Add means and deviations, each `[batch, 3]`, of the strips at the top, the bottom, the left and the right."""
    reach, parts = max(1, int(side * BORDER)), list[str]()
    for axis in (2, 3):
        for start in (0, side - reach):
            strip = graph.op("Slice", x, *(graph.integers(i) for i in (start, start + reach, axis)))
            parts += _moments(graph, graph.op("Reshape", strip, graph.integers(-1, 3, reach * side)))
    return parts


def _cells(graph: Graph, x: str, side: int) -> list[str]:
    """Add means, and logarithms of deviations, of the cells of the coarse picture, each `[batch, 3 CELLS CELLS]`."""
    size = side // CELLS
    cells = graph.op("Reshape", x, graph.integers(-1, 3, CELLS, size, CELLS, size))
    cells = graph.op("Transpose", cells, perm=[0, 1, 2, 4, 3, 5])  # [batch, 3, CELLS, CELLS, size, size]
    mean, deviation = _moments(graph, graph.op("Reshape", cells, graph.integers(-1, 3 * CELLS * CELLS, size * size)))
    return [mean, _log(graph, deviation, RARE)]


def _moments(graph: Graph, x: str) -> tuple[str, str]:
    """Add mean and deviation `[batch, C]` of `[batch, C, n]`."""
    mean = graph.op("ReduceMean", x, axes=[2], keepdims=1)
    centered = graph.op("Sub", x, mean)
    variance = graph.op("ReduceMean", graph.op("Mul", centered, centered), axes=[2], keepdims=0)
    return graph.op("Squeeze", mean, graph.integers(2)), graph.op("Sqrt", variance)
