"""What the merged model and the bundle will take, on the disk and in a device's memory, at several ranks. All in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mingle_edge.checking.report import Size
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.settings import Settings
from mingle_edge.merging.merged_size import elements, expert_elements, row_elements
from mingle_edge.routing.depth import deepest
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.router import ALL_DIRECTIONS, DIRECTIONS

_FLOAT = 4  # bytes


def sizes(
    architecture: VisionArchitecture, settings: Settings, classes: Sequence[int], images: Sequence[int], ranks: Sequence[int]
) -> list[Size]:
    """Return the sizes at each rank, for tasks of so many classes and calibration images.

    Experts are counted as of tasks that moved every layer. Memory is that of weights: ONNX Runtime itself and what it computes
    in come on top.
    """
    shapes = architecture.parameter_shapes()
    backbone, tasks = elements(shapes.values()), len(classes)
    heads = [count * (architecture.output_dim + 1) for count in classes]
    router = routed_blocks = 0
    if settings.scope == "image":
        depth = deepest(settings.router_blocks, architecture.layers)
        behind = tuple(f"blocks.{block}." for block in range(depth, architecture.layers))
        last = ("projection.", "ln_post.", "ln_tokens.", "pooling.")
        routed_blocks = elements(shape for name, shape in shapes.items() if not name.startswith((*behind, *last)))
        directions = tasks * min(DIRECTIONS, ALL_DIRECTIONS // tasks)
        layout = Layout.of(architecture, depth)
        stages = (layout.columns(None), layout.columns(depth), layout.columns(depth, embedding=True))
        router = sum(len(columns) for columns in stages) * (tasks + directions)
    listed = []
    for rank in ranks:
        at_rank = replace(settings, rank=rank)
        expert = expert_elements(architecture, at_rank)
        rows = sum(row_elements(architecture, at_rank, count) for count in images)
        gates = (
            0
            if settings.scope == "image"
            else sum(row_elements(architecture, replace(at_rank, subspace_directions=0), 0) for _ in classes)
        )
        listed.append(
            Size(
                rank=rank,
                expert=_FLOAT * expert,
                merged_model=_FLOAT * (backbone + tasks * expert + sum(heads) + rows),
                bundle=_FLOAT * (backbone + tasks * expert + sum(heads) + router + gates),
                memory=_FLOAT * (backbone + expert + sum(heads) + router + routed_blocks + gates),
            )
        )
    return listed
