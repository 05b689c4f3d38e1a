"""Image scope: the router as a graph of its own, that reads the first blocks of the plain backbone."""

from __future__ import annotations

from collections.abc import Sequence

from mingle_edge.router import Discriminants
from mingle_edge_export.graph import Graph, WeightFile
from mingle_edge_export.tower import PlainLayers, Tokens, Tower

_DOUBLE, _FLOAT = 11, 1  # onnx.TensorProto.DataType


def add_router(layers: PlainLayers, pixel_values: str, blocks: int, router: Discriminants, file: WeightFile) -> tuple[str, str]:
    """Images `[batch, 3, H, W]` to `posterior [batch, T]` and `confidence [batch]`.

    The features (docs/merged-model-format.md) and discriminants of `mingle_edge/router.py`. What follows the features is
    computed in double precision: discriminants weigh thousands of features against one another, and it costs nothing.
    """
    graph = layers.graph
    tower = Tower(layers)
    x = tower.tokens(pixel_values)
    features = _moments(layers, x)
    for i in range(blocks):
        x = tower.block(i, x)
        features += _moments(layers, x)
    with graph.part("router"):
        return _discriminate(graph, features, router, graph.weight("router.weight", router.weight, file))


def _discriminate(graph: Graph, features: Sequence[str], router: Discriminants, weight: str) -> tuple[str, str]:
    """Posterior and confidence from the parts of the features, each `[batch, width]`; weight `[F, T]`."""
    joined = graph.op("Cast", graph.op("Concat", *features, axis=1), to=_DOUBLE)  # [batch, F]
    v = graph.op("Add", graph.op("MatMul", joined, weight), graph.constant(router.offset))
    posterior = graph.op("Softmax", graph.op("Add", v, graph.constant(router.bias)), axis=1)
    z = graph.op("MatMul", v, graph.constant(router.whitening))  # [batch, T]
    z = graph.op("Unsqueeze", z, graph.integers(1))
    away = graph.op("Sub", z, graph.constant(router.centers))  # [batch, T, T]
    distances = graph.op("ReduceSum", graph.op("Mul", away, away), graph.integers(2), keepdims=0)
    confidence = graph.op("Neg", graph.op("ReduceMin", distances, axes=[1], keepdims=0))
    return graph.op("Cast", posterior, to=_FLOAT), graph.op("Cast", confidence, to=_FLOAT)


def _moments(layers: PlainLayers, x: Tokens) -> list[str]:
    """Mean and standard deviation over the tokens of each image, both `[batch, width]`."""
    graph, width = layers.graph, layers.architecture.width
    with graph.part("router"):
        mean = layers.token_mean(x, width)  # [batch, 1, width]
        centred = graph.op("Sub", graph.op("Reshape", x.value, graph.integers(-1, x.count, width)), mean)
        squares = graph.op("Reshape", graph.op("Mul", centred, centred), graph.integers(-1, width))
        deviation = graph.op("Sqrt", layers.token_mean(Tokens(squares, x.count), width))
        return [graph.op("Reshape", value, graph.integers(-1, width)) for value in (mean, deviation)]
