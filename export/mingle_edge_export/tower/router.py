"""Image scope: each stage of the router as a graph of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mingle_edge.routing.cascade import ANOTHER_GROUP, Cascade, Stage
from mingle_edge.routing.router import CERTAIN, Router
from mingle_edge_export.graph.builder import Graph, WeightFile
from mingle_edge_export.tower.pixel_statistics import pixel_statistics
from mingle_edge_export.tower.vision_tower import EMBEDS, PIXELS, Backbone, Tokens, Tower, pixel_graph
from mingle_edge_runtime.bundle.index import Precision

FEATURES, EARLIER, MASK = "features", "previous_features", "task_mask"
_DOUBLE, _FLOAT = 11, 1  # onnx.TensorProto.DataType
_NOWHERE = -1e30  # the score of a task that does not compete


def write_stage(path: Path, cascade: Cascade, number: int, backbone: Backbone, precision: Precision, file: WeightFile) -> None:
    """Write the graph of a stage: to `posterior [batch, T]`, `losses [batch, T + 1]`, `confidence [batch]`, and `features`.

    It reads images `[batch, 3, H, W]` (pixels, blocks) or the plain backbone's embeddings `[batch, output_dim]` (embedding)
    and, after the first stage, as `previous_features` the `features [batch, F]` that the stage before returned, to which it
    adds its own; the last stage returns none. The optional input `task_mask [T]` holds a one for each task that competes, by
    default for all.

    precision: of the backbone's blocks that it reads. file: of its own weights. The arithmetic is that of
    `mingle_edge/routing/cascade.py` and `router.py`.
    """
    stage, name = cascade.stages[number], f"router_{cascade.stages[number].name}"
    graph = pixel_graph(name, backbone.architecture) if stage.name != "embedding" else Graph(name)
    before = cascade.stages[number - 1].router.center.size if number else 0
    parts = [graph.input(EARLIER, ["batch", before])] if before else []
    with graph.part("router"):
        parts += _own_features(graph, stage, replace(backbone, precision=precision))
        features = graph.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]  # [batch, F]
        mask = graph.input(MASK, [len(stage.router.bias)], np.ones(len(stage.router.bias), np.float32))
        posterior, confidence = _discriminate(graph, features, mask, stage, file)
        losses = _expected_losses(graph, posterior, cascade, file)
        posterior, losses, confidence = (graph.op("Cast", value, to=_FLOAT) for value in (posterior, losses, confidence))
    graph.output("posterior", posterior, ["batch", len(stage.router.bias)])
    graph.output("losses", losses, ["batch", len(stage.router.bias) + 1])
    graph.output("confidence", confidence, ["batch"])
    if stage is not cascade.stages[-1]:
        graph.output(FEATURES, features, ["batch", stage.router.center.size])
    graph.save(path)


def _own_features(graph: Graph, stage: Stage, backbone: Backbone) -> list[str]:
    """Add the features that a stage has beside those of the stages before it, in parts `[batch, any]`."""
    architecture = backbone.architecture
    if stage.name == "pixels":
        return [pixel_statistics(graph, PIXELS, architecture.preprocess)]
    if stage.name == "embedding":
        return [graph.input(EMBEDS, ["batch", architecture.output_dim])]
    tower = Tower(graph, backbone)
    tokens = [tower.tokens(PIXELS)]
    for i in range(stage.blocks):
        tokens.append(tower.block(i, tokens[-1]))
    return [part for x in tokens for part in _moments(tower, x)]


def _moments(tower: Tower, x: Tokens) -> list[str]:
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


def _discriminate(graph: Graph, features: str, mask: str, stage: Stage, file: WeightFile) -> tuple[str, str]:
    """Add posterior `[batch, T]` and confidence `[batch]`, from features `[batch, F]` and the tasks that compete `[T]`.

    The linear part is in double precision: it weighs thousands of features against one another, and it costs nothing.
    """
    router, name = stage.router, stage.name
    centered = graph.op("Sub", graph.op("Cast", features, to=_DOUBLE), graph.constant(router.center))
    v = graph.op("MatMul", centered, graph.weight(f"router.{name}.weight", router.weight, file))  # [batch, T]
    linear = scores = graph.op("Add", v, graph.constant(router.bias))
    if router.owners.size:  # what tasks' own covariances add
        along = graph.op("Cast", centered, to=_FLOAT)
        directions = graph.weight(f"router.{name}.directions", router.directions.astype(np.float32), file)
        along = graph.op("MatMul", along, directions)  # [batch, K]
        along = graph.op("Add", along, graph.constant(router.shifts.astype(np.float32)))
        members = graph.constant(router.members.astype(np.float32))  # [K, T]
        own = graph.op("MatMul", graph.op("Mul", along, along), members)
        scores = graph.op("Add", scores, graph.op("Cast", own, to=_DOUBLE))
    scores = graph.op("Div", scores, _number(graph, router.temperature))
    competes = graph.op("Greater", mask, graph.scalar(0.5))
    posterior = graph.op("Softmax", graph.op("Where", competes, scores, _number(graph, _NOWHERE)), axis=1)
    return posterior, _confidence(graph, v, linear, posterior, router)


def _confidence(graph: Graph, v: str, linear: str, posterior: str, router: Router) -> str:
    """Add the confidence `[batch]`, from v, the linear part of the scores and the posterior, each `[batch, T]`."""
    along = graph.op("MatMul", v, graph.constant(router.spread))  # [batch, T]
    spread = graph.op("ReduceSum", graph.op("Mul", along, along), graph.integers(1), keepdims=0)
    largest = graph.op("ReduceMax", linear, axes=[1], keepdims=0)
    nearness = graph.op("Sub", graph.op("Mul", largest, _number(graph, 2)), spread)
    most = graph.op("ReduceMax", posterior, axes=[1], keepdims=0)
    others = graph.op("Max", graph.op("Sub", _number(graph, 1), most), _number(graph, CERTAIN))
    in_nearness, in_certainty = (_number(graph, trust) for trust in router.trust)
    certainty = graph.op("Mul", graph.op("Neg", graph.op("Log", others)), in_certainty)
    return graph.op("Add", graph.op("Mul", nearness, in_nearness), certainty)


def _expected_losses(graph: Graph, posterior: str, cascade: Cascade, file: WeightFile) -> str:
    """Add what each choice is expected to lose `[batch, T + 1]`, from the posterior `[batch, T]`."""
    losses = graph.op("MatMul", posterior, graph.weight("router.losses", cascade.losses.astype(np.float64), file))
    numbers, groups = np.unique(cascade.groups, return_inverse=True)
    if len(numbers) == 1:
        return losses
    members = (groups[:, None] == np.arange(len(numbers))).astype(np.float64)  # [T, groups]
    outside = np.pad(ANOTHER_GROUP * (1 - members.T), ((0, 0), (0, 1)))  # [groups, T + 1]
    sums = graph.op("MatMul", posterior, graph.weight("router.members", members, file))  # [batch, groups]
    likeliest = graph.op("ArgMax", sums, axis=1, keepdims=0)
    return graph.op("Add", losses, graph.op("Gather", graph.weight("router.outside", outside, file), likeliest))


def _number(graph: Graph, value: float) -> str:
    return graph.constant(np.array(value, dtype=np.float64))
