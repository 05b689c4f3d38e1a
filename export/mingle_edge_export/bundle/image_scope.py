"""The image scope's part of a bundle: router, tower with optional inputs, one adapter per task."""

from __future__ import annotations

from pathlib import Path

from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress
from mingle_edge_export.bundle.adapters import write_adapter
from mingle_edge_export.bundle.contents import Contents, StoredExpert
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.tower.expert_inputs import expert_values
from mingle_edge_export.tower.graph_writer import GraphWriter
from mingle_edge_runtime import bundle as fmt

TOWER, DENSE, EXPERTS = "tower.onnx", "dense.onnx", "experts"
ROUTER, ROUTER_WEIGHTS = "router.onnx", "router.bin"


def write_image_scope(folder: Path, merged: MergedModel, graphs: GraphWriter, progress: Progress) -> Contents:
    """Write the graphs and the adapters into `folder`."""
    architecture, names = merged.architecture, merged.task_names
    router = merged.router()
    graphs.dense(folder / DENSE)
    with (folder / ROUTER_WEIGHTS).open("wb") as file:
        graphs.router(folder / ROUTER, merged.router_depth, router, WeightFile(file, ROUTER_WEIGHTS))
    kinds = ("patch_embedding", *merged.settings.carrying(), "projection")
    carrying = [layer for layer in architecture.linear_layers() if layer.rsplit(".", 1)[-1] in kinds]
    graphs.tower_with_inputs(folder / TOWER, carrying)
    (folder / EXPERTS).mkdir()
    stored = []
    for i, name in enumerate(names):
        progress("experts", i, len(names), name)
        path = f"{EXPERTS}/{name}.onnx_adapter"
        expert = graphs.smoothing.parameters(merged.expert(name))
        values = expert_values(architecture, graphs.backbone, expert, carrying, graphs.expert_precision)
        write_adapter(folder / path, values)
        rank = max(len(value) for key, value in expert.items() if key.endswith(".A"))
        stored.append(StoredExpert(rank, (folder / path).stat().st_size, path))
    progress("experts", len(names), len(names))
    vectors = {name: graphs.weights.location(name) for name in architecture.vector_shapes()}
    return Contents(
        tower=TOWER,
        dense=DENSE,
        experts=stored,
        router=fmt.Router(ROUTER, merged.router_depth, graphs.router_precision, router.confidence_bound),
        defaults=fmt.Defaults(graphs.weights.name, {name: fmt.DefaultTensor(*place) for name, place in vectors.items()}),
    )
