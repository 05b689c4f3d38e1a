"""One task merged into the weights: a tower of that task alone, at the cost of the dense one."""

from __future__ import annotations

from pathlib import Path

from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress
from mingle_edge_export.bundle.writer import TOWER, BundleWriter
from mingle_edge_export.options import ExportOptions
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.tower.vision_tower import Backbone, Tower, pixel_graph


class FoldedScopeWriter(BundleWriter):
    """Writes `W + B A` for the weights of the only task of a merged model, and its vectors for those of the backbone."""

    dense = TOWER

    def __init__(self, folder: Path, merged: MergedModel, options: ExportOptions, smoothing: Smoothing) -> None:
        super().__init__(folder, merged, options, smoothing)
        expert = smoothing.parameters(merged.expert(merged.task_names[0]))
        self._rank = max(len(value) for name, value in expert.items() if name.endswith(".A"))
        self.parameters |= {name: value for name, value in expert.items() if name in self.parameters}
        for name, A in expert.items():
            if name.endswith(".A"):
                layer = name.removesuffix(".A")
                self.parameters[f"{layer}.weight"] = self.parameters[f"{layer}.weight"] + expert[f"{layer}.B"] @ A

    def write_experts(self, progress: Progress) -> None:
        """Write the task's head; its expert is in the weights."""
        self.add_task(self.merged.task_names[0], self._rank, 0)

    def add_graphs(self, backbone: Backbone) -> None:
        """Write the tower."""
        self.tower(backbone).write(self.folder / TOWER)

    def tower(self, backbone: Backbone) -> Tower:
        """Build the plain tower of the folded weights."""
        return Tower(pixel_graph("dense", backbone.architecture), backbone)
