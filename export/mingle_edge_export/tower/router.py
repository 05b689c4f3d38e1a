"""Image scope: the router as a graph of its own, that reads the first blocks of the plain backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mingle_edge.routing.router import Router
from mingle_edge_export.graph.builder import Graph, WeightFile
from mingle_edge_export.tower.vision_tower import PIXELS, Backbone, Tokens, Tower, pixel_graph

_DOUBLE, _FLOAT = 11, 1  # onnx.TensorProto.DataType


def write_router(path: Path, backbone: Backbone, blocks: int, router: Router, file: WeightFile) -> None:
    """Write the graph from images `[batch, 3, H, W]` to `posterior [batch, T]` and `confidence [batch]`.

    blocks: of the backbone that it reads. file: of its own weights. The features (docs/merged-model-format.md) and
    discriminants are those of `mingle_edge/routing/router.py`.
    """
    tower = Tower(pixel_graph("router", backbone.architecture), backbone)
    graph, x = tower.graph, tower.tokens(PIXELS)
    tokens = [x]
    for i in range(blocks):
        x = tower.block(i, x)
        tokens.append(x)
    with graph.part("router"):
        posterior, confidence = _discriminate(graph, [part for x in tokens for part in _features(tower, x)], router, file)
    graph.output("posterior", posterior, ["batch", len(router.bias)])
    graph.output("confidence", confidence, ["batch"])
    graph.save(path)


def _features(tower: Tower, x: Tokens) -> list[str]:
    """Add the router's features of some tokens, each `[batch, width]`.

    They are mean and standard deviation over the tokens of each image, and the mean magnitude of the difference between a patch
    and its right, and its lower, neighbor.
    """
    graph, width, grid = tower.graph, tower.architecture.width, tower.architecture.grid
    prefix = tower.architecture.prefix_tokens
    mean = tower.token_mean(x, width)  # [batch, 1, width]
    centered = graph.op("Sub", graph.op("Reshape", x.value, graph.integers(-1, x.count, width)), mean)
    squares = graph.op("Reshape", graph.op("Mul", centered, centered), graph.integers(-1, width))
    deviation = graph.op("Sqrt", tower.token_mean(Tokens(squares, x.count), width))
    features = [graph.op("Reshape", value, graph.integers(-1, width)) for value in (mean, deviation)]
    by_image = graph.op("Reshape", x.value, graph.integers(-1, x.count, width))  # [batch, N, width]
    patches = graph.op("Slice", by_image, *(graph.integers(i) for i in (prefix, x.count, 1)))
    patches = graph.op("Reshape", patches, graph.integers(-1, grid, grid, width))  # [batch, gy, gx, width]
    for axis in (2, 1):
        later, earlier = (
            graph.op("Slice", patches, *(graph.integers(i) for i in (start, start + grid - 1, axis))) for start in (1, 0)
        )
        steps = graph.op("Reshape", graph.op("Abs", graph.op("Sub", later, earlier)), graph.integers(-1, width))
        mean = tower.token_mean(Tokens(steps, grid * (grid - 1)), width)  # [batch, 1, width]
        features.append(graph.op("Reshape", mean, graph.integers(-1, width)))
    return features


def _discriminate(graph: Graph, features: Sequence[str], router: Router, file: WeightFile) -> tuple[str, str]:
    """Add posterior and confidence, from the parts of the features.

    The linear part is in double precision: it weighs thousands of features against one another, and it costs nothing.
    """
    joined = graph.op("Cast", graph.op("Concat", *features, axis=1), to=_DOUBLE)  # [batch, F]
    centered = graph.op("Sub", joined, graph.constant(router.center))
    v = graph.op("MatMul", centered, graph.weight("router.weight", router.weight, file))  # [batch, T]
    scores = graph.op("Add", v, graph.constant(router.bias))
    if router.owners.size:  # what tasks' own covariances add
        along = graph.op("Cast", centered, to=_FLOAT)
        directions = graph.weight("router.directions", router.directions.astype(np.float32), file)
        along = graph.op("MatMul", along, directions)  # [batch, K]
        along = graph.op("Add", along, graph.constant(router.shifts.astype(np.float32)))
        members = graph.constant(router.members.astype(np.float32))  # [K, T]
        own = graph.op("MatMul", graph.op("Mul", along, along), members)
        scores = graph.op("Add", scores, graph.op("Cast", own, to=_DOUBLE))
    posterior = graph.op("Softmax", scores, axis=1)
    z = graph.op("MatMul", v, graph.constant(router.whitening))  # [batch, T]
    z = graph.op("Unsqueeze", z, graph.integers(1))
    away = graph.op("Sub", z, graph.constant(router.centers))  # [batch, T, T]
    distances = graph.op("ReduceSum", graph.op("Mul", away, away), graph.integers(2), keepdims=0)
    confidence = graph.op("Neg", graph.op("ReduceMin", distances, axes=[1], keepdims=0))
    return graph.op("Cast", posterior, to=_FLOAT), graph.op("Cast", confidence, to=_FLOAT)
