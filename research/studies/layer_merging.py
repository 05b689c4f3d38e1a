"""The layer scope in memory, by the library's own functions: for studies that merge the same few tasks in many ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.corruptions import Corruption
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.gates.gate_training import GateLearner
from mingle_edge.gates.gating import GatedLinear
from mingle_edge.merging.task_merging import LayerState, merge_into_layers
from research.studies.study import Study
from research.studies.tables import percent


class SeedsInMemory(ImageSet):
    """Seed images that are in memory already."""

    def __init__(self, images: Tensor) -> None:
        super().__init__([Path()] * len(images))
        self.images = images

    def load(self, numbers: Sequence[int], architecture: VisionArchitecture, corruption: Corruption | None = None) -> Tensor:
        """Return the images with these numbers."""
        return self.images[list(numbers)]


def merge_layers(
    study: Study,
    seeds: dict[int, ImageSet],
    settings: Settings,
    learner: Callable[..., GateLearner] = GateLearner,
) -> list[LayerState]:
    """Return the state after each of the tasks with these numbers, each adapted on its own seeds."""
    states = [LayerState()]
    for number, own_seeds in seeds.items():
        task = replace(study.tasks[number], calibration_images=own_seeds)
        learning = learner(task=task, pretrained=study.pretrained, settings=settings)
        states.append(states[-1].grown(merge_into_layers(learning, states[-1])))
    return states[1:]


def percent_in_layers(study: Study, state: LayerState, number: int, part: str) -> float:
    """Return percent of a task's images that are right under its own head, routed in every layer (P1)."""
    linear = GatedLinear(study.pretrained.backbone, state.experts)
    return percent(study.right(number, part, study.embed(number, part, linear=linear)))
