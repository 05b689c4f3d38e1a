"""Image scope: the router as a graph of its own, that reads the first blocks of the plain backbone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mingle_edge.router import Discriminants
from mingle_edge_export.graph.builder import Graph, WeightFile
from mingle_edge_export.tower.vision_tower import PlainLayers, Tokens, Tower

_DOUBLE, _FLOAT = 11, 1  # onnx.TensorProto.DataType


def add_router(layers: PlainLayers, pixel_values: str, blocks: int, router: Discriminants, file: WeightFile) -> tuple[str, str]:
    """Images `[batch, 3, H, W]` to `posterior [batch, T]` and `confidence [batch]`.

    The features (docs/merged-model-format.md) and discriminants of `mingle_edge/router.py`. The linear part is computed in
    double precision: it weighs thousands of features against one another, and it costs nothing.
    """
    graph = layers.graph
    tower = Tower(layers)
    x = tower.tokens(pixel_values)
    tokens = [x]
    for i in range(blocks):
        x = tower.block(i, x)
        tokens.append(x)
    with graph.part("router"):
        features = [part for x in tokens for part in [*_moments(layers, x), *_roughness(layers, x)]]
        return _discriminate(graph, features, router, file)


def _discriminate(graph: Graph, features: Sequence[str], router: Discriminants, file: WeightFile) -> tuple[str, str]:
    """Posterior and confidence from the parts of the features, each `[batch, width]`."""
    joined = graph.op("Cast", graph.op("Concat", *features, axis=1), to=_DOUBLE)  # [batch, F]
    centred = graph.op("Sub", joined, graph.constant(router.centre))
    v = graph.op("MatMul", centred, graph.weight("router.weight", router.weight, file))  # [batch, T]
    scores = graph.op("Add", v, graph.constant(router.bias))
    if router.owners.size:
        own = graph.op("Cast", _own(graph, graph.op("Cast", centred, to=_FLOAT), router, file), to=_DOUBLE)
        scores = graph.op("Add", scores, own)
    posterior = graph.op("Softmax", scores, axis=1)
    z = graph.op("MatMul", v, graph.constant(router.whitening))  # [batch, T]
    z = graph.op("Unsqueeze", z, graph.integers(1))
    away = graph.op("Sub", z, graph.constant(router.centers))  # [batch, T, T]
    distances = graph.op("ReduceSum", graph.op("Mul", away, away), graph.integers(2), keepdims=0)
    confidence = graph.op("Neg", graph.op("ReduceMin", distances, axes=[1], keepdims=0))
    return graph.op("Cast", posterior, to=_FLOAT), graph.op("Cast", confidence, to=_FLOAT)


def _own(graph: Graph, centred: str, router: Discriminants, file: WeightFile) -> str:
    """What tasks' own covariances add to scores, `[batch, T]`, from centred features `[batch, F]`."""
    directions = graph.weight("router.directions", router.directions.astype(np.float32), file)
    along = graph.op("MatMul", centred, directions)  # [batch, K]
    along = graph.op("Add", along, graph.constant(router.shifts.astype(np.float32)))
    members = graph.constant(router.members.astype(np.float32))  # [K, T]
    return graph.op("MatMul", graph.op("Mul", along, along), members)


def _moments(layers: PlainLayers, x: Tokens) -> list[str]:
    """Mean and standard deviation over the tokens of each image, both `[batch, width]`."""
    graph, width = layers.graph, layers.architecture.width
    mean = layers.token_mean(x, width)  # [batch, 1, width]
    centred = graph.op("Sub", graph.op("Reshape", x.value, graph.integers(-1, x.count, width)), mean)
    squares = graph.op("Reshape", graph.op("Mul", centred, centred), graph.integers(-1, width))
    deviation = graph.op("Sqrt", layers.token_mean(Tokens(squares, x.count), width))
    return [graph.op("Reshape", value, graph.integers(-1, width)) for value in (mean, deviation)]


def _roughness(layers: PlainLayers, x: Tokens) -> list[str]:
    """Mean magnitude of the difference between a patch and its right, and its lower, neighbour, both `[batch, width]`."""
    graph, width, grid = layers.graph, layers.architecture.width, layers.architecture.grid
    by_image = graph.op("Reshape", x.value, graph.integers(-1, x.count, width))  # [batch, N, width]
    patches = graph.op("Slice", by_image, *(graph.integers(i) for i in (1, x.count, 1)))
    patches = graph.op("Reshape", patches, graph.integers(-1, grid, grid, width))  # [batch, gy, gx, width]
    found = []
    for axis in (2, 1):
        later, earlier = (
            graph.op("Slice", patches, *(graph.integers(i) for i in (start, start + grid - 1, axis))) for start in (1, 0)
        )
        steps = graph.op("Reshape", graph.op("Abs", graph.op("Sub", later, earlier)), graph.integers(-1, width))
        mean = layers.token_mean(Tokens(steps, grid * (grid - 1)), width)  # [batch, 1, width]
        found.append(graph.op("Reshape", mean, graph.integers(-1, width)))
    return found
