"""One task merged into the weights: a tower of that task alone, at the cost of the dense one."""

from __future__ import annotations

from mingle_edge.core.progress import Progress
from mingle_edge_export.bundle.writer import TOWER, BundleWriter, StoredExpert
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.tower.vision_tower import Backbone, Tower, pixel_graph


class FoldedScopeWriter(BundleWriter):
    """Writes `W + B A` for the weights of the only task of a merged model, and its vectors for those of the backbone."""

    dense = TOWER

    def write_experts(self, smoothing: Smoothing, progress: Progress) -> None:
        """Fold the expert into the weights; no file is written."""
        (name,) = self.merged.task_names
        backbone, expert = (smoothing.parameters(arrays) for arrays in (self.merged.backbone(), self.merged.expert(name)))
        self.parameters = {name: expert.get(name, value) for name, value in backbone.items()}
        layers = [name.removesuffix(".A") for name in expert if name.endswith(".A")]
        for layer in layers:
            self.parameters[f"{layer}.weight"] = backbone[f"{layer}.weight"] + expert[f"{layer}.B"] @ expert[f"{layer}.A"]
        self.experts[name] = StoredExpert(0, max((len(expert[f"{layer}.A"]) for layer in layers), default=0))

    def add_graphs(self, backbone: Backbone) -> None:
        """Write the tower."""
        self.tower(backbone).write(self.folder / TOWER)

    def tower(self, backbone: Backbone) -> Tower:
        """Build the plain tower of the folded weights."""
        return Tower(pixel_graph("dense", backbone.architecture), backbone)
