"""The image scope's part of a bundle: router, tower with optional inputs, one adapter per task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mingle_edge.core.progress import Progress
from mingle_edge.routing.cascade import Judge
from mingle_edge_export.bundle.adapters import write_adapter
from mingle_edge_export.bundle.writer import DENSE, BundleWriter, StoredExpert
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.tower.expert_inputs import ExpertInputs, expert_values
from mingle_edge_export.tower.router import write_stage
from mingle_edge_export.tower.vision_tower import Backbone, Tower, pixel_graph
from mingle_edge_runtime.bundle import index as fmt

EXPERTS, ROUTER_WEIGHTS = "experts", "router.bin"
STAGES: dict[fmt.StageName, str] = {
    "pixels": "router.onnx",
    "blocks": "router_blocks.onnx",
    "embedding": "router_embedding.onnx",
}


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
        """Write dense tower, the router's stages and tower; the backbone's vectors are the defaults of experts."""
        cascade = self.merged.cascade() if self.options.top_k == 1 else self.merged.cascade().without_judge()
        Tower(pixel_graph("dense", backbone.architecture), backbone).write(self.folder / DENSE)
        stages = []
        with (self.folder / ROUTER_WEIGHTS).open("wb") as own:
            weights = WeightFile(own, ROUTER_WEIGHTS)
            for number, stage in enumerate(cascade.stages):
                precision = self.options.router if stage.name == "blocks" else "fp32"
                write_stage(self.folder / STAGES[stage.name], cascade, number, backbone, precision, weights)
                numbers = _float32(stage.doubt), _float32(stage.router.confidence_bound)
                stages.append(fmt.Stage(stage.name, STAGES[stage.name], stage.blocks, precision, *numbers))
        self.write_tower(self.tower(backbone))
        self.router = fmt.Router(tuple(stages), _judge(cascade.judge), self._groups())

    def _groups(self) -> dict[str, tuple[str, ...]] | None:
        """Return the tasks of each group; None where no task has one."""
        names = dict.fromkeys(task.group for task in self.merged.tasks if task.group is not None)
        return {name: tuple(task.name for task in self.merged.tasks if task.group == name) for name in names} or None

    def tower(self, backbone: Backbone) -> ExpertInputs:
        """Build the tower with optional inputs."""
        graph = pixel_graph("tower", backbone.architecture)
        return ExpertInputs(graph, backbone, self.carrying, self.expert_precision)

    def note_defaults(self, backbone: Backbone) -> None:
        """Note where the backbone's vectors lie, which experts replace or change."""
        file = backbone.file
        places = {name: file.location(name) for name in backbone.architecture.vector_shapes()}
        self.defaults = fmt.Defaults(file.name, {name: fmt.DefaultTensor(*place) for name, place in places.items()})


def _judge(judge: Judge | None) -> fmt.Judge | None:
    """Return what the index has of a judge."""
    if judge is None:
        return None
    typical, deviation = tuple(judge.typical.tolist()), tuple(judge.deviation.tolist())
    return fmt.Judge(typical, deviation, judge.trust, _float32(judge.unsure), _float32(judge.bound))


def _float32(bound: float) -> float:
    """Return a bound that JSON can hold: where it is infinite the largest number, which no image exceeds either."""
    largest = float(np.finfo(np.float32).max)
    return min(max(bound, -largest), largest)
