"""The layer scope's part of a bundle: a tower that routes, and the page bank of all experts."""

from __future__ import annotations

import numpy as np

from mingle_edge.core.progress import Progress
from mingle_edge_export.bundle.writer import DENSE, BundleWriter, StoredExpert
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.tower.page_bank import TENSOR, PageLayout, write_expert
from mingle_edge_export.tower.routed_experts import LayerGates, RoutedExperts, expert_norm
from mingle_edge_export.tower.vision_tower import Backbone, Tower, pixel_graph
from mingle_edge_runtime.bundle import index as fmt

BANK, SCALES, GATES = "experts.bin", "expert_scales.bin", "gates.bin"


class LayerScopeWriter(BundleWriter):
    """Writes all experts into one file of pages, and a tower that chooses among them in every layer."""

    @property
    def minimum_onnxruntime(self) -> str:
        """Return the oldest version that runs the bundle."""
        return "1.23.0" if self.expert_precision == "int4" else "1.20.0"  # GatherBlockQuantized of two codes a byte

    def write_experts(self, smoothing: Smoothing, progress: Progress) -> None:
        """Write the page bank."""
        merged, names, kinds = self.merged, self.merged.task_names, self.merged.settings.carrying()
        layers = [layer for layer in merged.architecture.block_linears() if layer.rsplit(".", 1)[-1] in kinds]
        self.parameters = smoothing.parameters(merged.backbone())
        first = merged.expert(names[0])  # PyTorch stacks the experts of a layer: they are of one rank
        self._layout = layout = PageLayout.of(
            merged.architecture, {layer: len(first[f"{layer}.A"]) for layer in layers}, self.expert_precision
        )
        self.norms = np.zeros((len(layers), len(names)), dtype=np.float32)
        scales = []
        with (self.folder / BANK).open("wb") as file:
            for t, name in enumerate(names):
                progress("experts", t, len(names), name)
                expert = merged.expert(name)
                scales.append(write_expert(file, layout, smoothing.parameters(expert)))
                self.norms[:, t] = [expert_norm(expert[f"{layer}.A"], expert[f"{layer}.B"]) for layer in layers]
                self.experts[name] = StoredExpert(layout.bytes_per_task, max(len(expert[f"{layer}.A"]) for layer in layers))
        progress("experts", len(names), len(names))
        blocks = [task.blocks for task in scales if task.blocks is not None]
        if blocks:
            (self.folder / SCALES).write_bytes(np.concatenate(blocks).astype("<f4").tobytes())
        learned = [smoothing.gates(merged.gates(name)) for name in names]
        self._gates = {
            layer: LayerGates(
                weight=np.stack([task[layer][0] for task in learned], axis=1),
                bias=np.concatenate([task[layer][1] for task in learned]),
                norms=self.norms[i],
                row_scales=np.stack([task.rows[layer] for task in scales]) if scales[0].rows else None,
            )
            for i, layer in enumerate(layers)
        }
        pages = tuple(fmt.LayerPages(slot.layer, slot.first_page, slot.pages) for slot in layout.slots)
        self.page_bank = fmt.PageBank(BANK, TENSOR, layout.element, layout.page_elements, layout.pages_per_task, pages)

    def add_graphs(self, backbone: Backbone) -> None:
        """Write dense tower and tower."""
        Tower(pixel_graph("dense", backbone.architecture), backbone).write(self.folder / DENSE)
        with (self.folder / GATES).open("wb") as file:
            self.write_tower(self.tower(backbone, WeightFile(file, GATES)))

    def tower(self, backbone: Backbone, gate_file: WeightFile | None = None) -> RoutedExperts:
        """Build the tower that routes; its gates go to the backbone's file unless another is given."""
        graph, scales = pixel_graph("tower", backbone.architecture), SCALES if self.expert_precision == "int4" else None
        gate_file = gate_file or backbone.file
        return RoutedExperts(graph, backbone, self._layout, self._gates, gate_file, BANK, self.options.top_k, scales)
