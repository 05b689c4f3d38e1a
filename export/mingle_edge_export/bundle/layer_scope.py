"""The layer scope's part of a bundle: a tower that routes, and the page bank of all experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress
from mingle_edge_export.bundle.contents import Contents, StoredExpert
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.tower.graph_writer import GraphWriter
from mingle_edge_export.tower.page_bank import TENSOR, PageLayout, write_expert
from mingle_edge_export.tower.routed_experts import LayerGates, expert_norm
from mingle_edge_runtime import bundle as fmt

TOWER, DENSE, GATES = "tower.onnx", "dense.onnx", "gates.bin"
BANK, SCALES = "experts.bin", "expert_scales.bin"


def write_layer_scope(folder: Path, merged: MergedModel, graphs: GraphWriter, top_k: int, progress: Progress) -> Contents:
    """Write the graph and the bank into `folder`. top_k: of a run that does not say otherwise."""
    graphs.dense(folder / DENSE)
    names, kinds = merged.task_names, merged.settings.carrying()
    layers = [layer for layer in merged.architecture.block_linears() if layer.rsplit(".", 1)[-1] in kinds]
    ranks = np.array([[len(expert[f"{layer}.A"]) for layer in layers] for expert in map(merged.expert, names)])  # [T, L]
    by_layer = dict(zip(layers, ranks.max(axis=0).tolist(), strict=True))
    layout = PageLayout.of(merged.architecture, by_layer, graphs.expert_precision)
    norms = np.zeros((len(layers), len(names)), dtype=np.float32)
    scales = []
    with (folder / BANK).open("wb") as file:
        for t, name in enumerate(names):
            progress("experts", t, len(names), name)
            expert = merged.expert(name)
            scales.append(write_expert(file, layout, graphs.smoothing.parameters(expert)))
            norms[:, t] = [expert_norm(expert[f"{layer}.A"], expert[f"{layer}.B"]) for layer in layers]
    progress("experts", len(names), len(names))
    learned = [graphs.smoothing.gates(merged.gates(name)) for name in names]
    gates = {
        layer: LayerGates(
            weight=np.stack([task[layer][0] for task in learned], axis=1),
            bias=np.concatenate([task[layer][1] for task in learned]),
            norms=norms[i],
            row_scales=np.stack([task.rows[layer] for task in scales]) if scales[0].rows else None,
        )
        for i, layer in enumerate(layers)
    }
    blocks = [task.blocks for task in scales if task.blocks is not None]
    if blocks:
        (folder / SCALES).write_bytes(np.concatenate(blocks).astype("<f4").tobytes())
    with (folder / GATES).open("wb") as file:
        gate_file = WeightFile(file, GATES)
        graphs.tower_with_bank(folder / TOWER, layout, gates, gate_file, BANK, top_k, SCALES if blocks else None)
    pages = tuple(fmt.LayerPages(slot.layer, slot.first_page, slot.pages) for slot in layout.slots)
    return Contents(
        tower=TOWER,
        dense=DENSE,
        experts=[StoredExpert(int(rank), layout.bytes_per_task) for rank in ranks.max(axis=1)],
        page_bank=fmt.PageBank(BANK, TENSOR, layout.element, layout.page_elements, layout.pages_per_task, pages),
        norms=norms,
    )
