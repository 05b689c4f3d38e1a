"""The graphs of a bundle as files: inputs and outputs of docs/bundle-format.md around what the builders compute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnx import TensorProto

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.router import Discriminants
from mingle_edge_export.graph.builder import Array, Dims, Graph, WeightFile
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.precision.weight_precision import Precision
from mingle_edge_export.tower.expert_inputs import ExpertInputs
from mingle_edge_export.tower.page_bank import PageLayout
from mingle_edge_export.tower.routed_experts import LayerGates, RoutedExperts
from mingle_edge_export.tower.router import add_router
from mingle_edge_export.tower.vision_tower import PlainLayers, Tower

PIXELS, EMBEDS = "pixel_values", "image_embeds"


@dataclass(frozen=True)
class GraphWriter:
    """Writes graphs of one backbone that share their weights."""

    architecture: VisionArchitecture
    backbone: Mapping[str, Array]  # by internal name
    weights: WeightFile
    precision: Precision = "fp32"
    expert_precision: Precision = "fp32"
    router_precision: Precision = "fp32"
    """of the blocks that the router reads"""
    exact: Collection[str] = ()
    """layers whose weights stay in float32 whatever the precision"""
    smoothing: Smoothing = field(default_factory=Smoothing)
    """what the backbone was smoothed by, and experts and gates must be"""

    def dense(self, path: Path) -> None:
        """The tower without experts."""
        graph = self._graph("dense")
        layers = self._plain(graph, self.precision)
        self._finish(graph, layers, path)

    def tower_with_inputs(self, path: Path, carrying: Collection[str]) -> None:
        """The image scope's tower. carrying: layers with experts."""
        graph = self._graph("tower")
        layers = ExpertInputs(
            graph,
            self.architecture,
            self.backbone,
            self.weights,
            carrying,
            precision=self.precision,
            exact=self.exact,
            expert_precision=self.expert_precision,
        )
        self._finish(graph, layers, path)

    def tower_with_bank(
        self,
        path: Path,
        layout: PageLayout,
        gates: Mapping[str, LayerGates],
        gate_file: WeightFile,
        bank: str,
        top_k: int,
        block_scales: str | None = None,
    ) -> None:
        """The layer scope's tower; gates go to gate_file; bank, block_scales: the files of pages and of their scales."""
        graph = self._graph("tower")
        layers = RoutedExperts(
            graph,
            self.architecture,
            self.backbone,
            self.weights,
            layout,
            gates,
            gate_file,
            bank,
            top_k,
            precision=self.precision,
            exact=self.exact,
            block_scales=block_scales,
        )
        embeds = Tower(layers).embeddings(PIXELS)
        tasks, values = layers.routes()
        dims: Dims = ["batch", len(layout.slots), "k"]
        graph.output(EMBEDS, embeds, ["batch", self.architecture.output_dim])
        graph.output("route_tasks", tasks, dims, TensorProto.INT64)
        graph.output("route_weights", values, dims)
        graph.save(path)

    def router(self, path: Path, blocks: int, router: Discriminants, file: WeightFile) -> None:
        """The image scope's router on the first `blocks` blocks; its own weights go to `file`."""
        graph = self._graph("router")
        layers = self._plain(graph, self.router_precision)
        posterior, confidence = add_router(layers, PIXELS, blocks, router, file)
        graph.output("posterior", posterior, ["batch", len(router.bias)])
        graph.output("confidence", confidence, ["batch"])
        graph.save(path)

    def _plain(self, graph: Graph, precision: Precision) -> PlainLayers:
        return PlainLayers(graph, self.architecture, self.backbone, self.weights, precision, self.exact)

    def _graph(self, name: str) -> Graph:
        graph = Graph(name)
        size = self.architecture.image_size
        graph.input(PIXELS, ["batch", 3, size, size])
        return graph

    def _finish(self, graph: Graph, layers: PlainLayers, path: Path) -> None:
        graph.output(EMBEDS, Tower(layers).embeddings(PIXELS), ["batch", self.architecture.output_dim])
        graph.save(path)
