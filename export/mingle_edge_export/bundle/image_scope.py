"""The image scope's part of a bundle: router, tower with optional inputs, one adapter per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mingle_edge.core.progress import Progress
from mingle_edge_export.bundle.adapters import write_adapter
from mingle_edge_export.bundle.writer import DENSE, BundleWriter, StoredExpert
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.tower.expert_inputs import ExpertInputs, expert_values
from mingle_edge_export.tower.router import write_router
from mingle_edge_export.tower.vision_tower import Backbone, Tower, pixel_graph
from mingle_edge_runtime.bundle import index as fmt

EXPERTS, ROUTER, ROUTER_WEIGHTS = "experts", "router.onnx", "router.bin"


class ImageScopeWriter(BundleWriter):
    """Writes one adapter per task, and graphs that take one expert a run."""

    @property
    def carrying(self) -> Sequence[str]:
        """Return the linear layers that carry experts, in order of depth."""
        return self.merged.settings.expert_layers(self.merged.architecture)

    def write_experts(self, smoothing: Smoothing, progress: Progress) -> None:
        """Write the adapter of every task."""
        names, architecture = self.merged.task_names, self.merged.architecture
        self.parameters = smoothing.parameters(self.merged.backbone())
        (self.folder / EXPERTS).mkdir()
        for i, name in enumerate(names):
            progress("experts", i, len(names), name)
            expert = smoothing.parameters(self.merged.expert(name))
            rank = max((len(value) for key, value in expert.items() if key.endswith(".A")), default=0)
            path = f"{EXPERTS}/{name}.onnx_adapter"
            values = expert_values(architecture, expert, self.parameters, self.carrying, self.choices[name].precision)
            write_adapter(self.folder / path, values)
            self.experts[name] = StoredExpert((self.folder / path).stat().st_size, rank, path)
        progress("experts", len(names), len(names))

    def add_graphs(self, backbone: Backbone) -> None:
        """Write dense tower, router and tower; the backbone's vectors are the defaults of experts."""
        router, depth = self.merged.router(), self.merged.router_depth
        Tower(pixel_graph("dense", backbone.architecture), backbone).write(self.folder / DENSE)
        with (self.folder / ROUTER_WEIGHTS).open("wb") as own:
            stored = replace(backbone, precision=self.options.router)
            weights = WeightFile(own, ROUTER_WEIGHTS)
            write_router(self.folder / ROUTER, stored, depth, router, weights)
        self.write_tower(self.tower(backbone))
        self.router = fmt.Router(ROUTER, depth, self.options.router, router.confidence_bound)

    def tower(self, backbone: Backbone) -> ExpertInputs:
        """Build the tower with optional inputs."""
        graph = pixel_graph("tower", backbone.architecture)
        return ExpertInputs(graph, backbone, self.carrying, self.expert_precision)

    def note_defaults(self, backbone: Backbone) -> None:
        """Note where the backbone's vectors lie, which experts replace or change."""
        file = backbone.file
        places = {name: file.location(name) for name in backbone.architecture.vector_shapes()}
        self.defaults = fmt.Defaults(file.name, {name: fmt.DefaultTensor(*place) for name, place in places.items()})
