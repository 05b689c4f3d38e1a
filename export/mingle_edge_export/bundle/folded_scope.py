"""One task merged into the weights: a tower of that task alone, at the cost of the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mingle_edge.merged_model import MergedModel
from mingle_edge_export.bundle.contents import Contents, StoredExpert
from mingle_edge_export.errors import OptionError
from mingle_edge_export.graph.builder import Array
from mingle_edge_export.tower.graph_writer import GraphWriter

TOWER = "tower.onnx"


def check_foldable(merged: MergedModel, task: str) -> None:
    """Raise `OptionError` where a task's expert is not the same for every image."""
    merged.task(task)
    if merged.scope == "layer":
        raise OptionError(
            f"fold: the gates of scope 'layer' differ from image to image; {task!r} cannot be folded, export without"
        )


def folded_parameters(backbone: Mapping[str, Array], expert: Mapping[str, Array]) -> dict[str, Array]:
    """The backbone with `W + B A` for its weights and the expert's vectors for its own."""
    parameters = {name: expert.get(name, value) for name, value in backbone.items()}
    for name, A in expert.items():
        if name.endswith(".A"):
            layer = name.removesuffix(".A")
            parameters[f"{layer}.weight"] = backbone[f"{layer}.weight"] + expert[f"{layer}.B"] @ A
    return parameters


def write_folded_scope(folder: Path, merged: MergedModel, graphs: GraphWriter) -> Contents:
    """Write the tower of the only task of `merged` into `folder`; graphs: of the plain backbone, whose weights none uses."""
    (task,) = merged.task_names
    expert = graphs.smoothing.parameters(merged.expert(task))
    replace(graphs, backbone=folded_parameters(graphs.backbone, expert)).dense(folder / TOWER)
    rank = max(len(value) for key, value in expert.items() if key.endswith(".A"))
    return Contents(tower=TOWER, dense=TOWER, experts=[StoredExpert(rank, 0)])
