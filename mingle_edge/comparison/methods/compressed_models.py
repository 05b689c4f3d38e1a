"""Methods that keep every task's own model in fewer bytes: named, or found by the image router.

Such a method says what it stores of a task and how the tower comes of it; the rest is here, and the same for all of them. Most
have no router of their own. P2, where the task is named, measures what compression costs and nothing else; in P1 and P3 the
image router sends images to compressed models as it does to this project's experts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.image_router import ImageRouter
from mingle_edge.comparison.methods.towers import backbone_embeddings, embed_by_task, tower_bytes
from mingle_edge.data.settings import Settings
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.finetuned_task import FinetunedTask

ROUTER = ("router_blocks", "router_augmentations")
"""Parameters of the image router; the others are the compression's."""


class CompressedTask(Protocol):
    """What is stored of one task."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of it."""

    def tower(self, backbone: Parameters) -> Parameters:
        """Return the parameters of the task's tower, as near to the fine-tuned ones as what is stored allows."""


@dataclass(frozen=True)
class CompressedTogether:
    """Tasks that share something beside the backbone, such as the sum of their task vectors."""

    shared_bytes: int
    tasks: Mapping[str, CompressedTask]


Compress = Callable[..., CompressedTask]
"""(task, workbench, parameters by name) -> what is stored of it"""
CompressTogether = Callable[..., CompressedTogether]
"""(tasks, workbench, parameters by name) -> what is stored of all of them"""


class _CompressedModels:
    """What is the same for all of them. Parameters: the compression's, and the image router's of `Settings`."""

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        self.workbench = workbench
        self.parameters = {name: value for name, value in parameters.items() if name not in ROUTER}
        given = {name: value for name, value in parameters.items() if name in ROUTER}
        settings = Settings.from_mapping({"scope": "image", "seed": workbench.seed} | given, "compressed models")
        self.router = ImageRouter(workbench, settings)
        self.tasks: Mapping[str, CompressedTask] = {}  # in order of merging
        self.shared_bytes = 0  # beside backbone and router
        self._keys: Mapping[str, Hashable] = {}  # all that a task's embeddings depend on beside the image
        self._last: tuple[str, Parameters] | None = None  # the tower that was used last

    @torch.inference_mode()
    def answer(self, batch: TestBatch) -> Answers:
        """See `ContinualMethod`."""
        if not self.tasks:
            return Answers(backbone_embeddings(batch, self.workbench))
        route, names = self.router.route(batch), list(self.tasks)
        embeds = embed_by_task(
            batch, route.tasks, lambda number, places: self._embed(batch, names[number], places), self.workbench
        )
        return Answers(embeds, route.posterior, route.claimed, route.tasks)

    @torch.inference_mode()
    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """See `ContinualMethod`."""
        return self._embed(batch, task)

    def stored_bytes(self) -> int:
        """See `ContinualMethod`."""
        return self._bytes_read_always() + sum(task.nbytes for task in self.tasks.values())

    def active_bytes(self) -> int:
        """Count the largest task; the router's features are those of the backbone's first blocks, which are read anyway."""
        return self._bytes_read_always() + max((task.nbytes for task in self.tasks.values()), default=0)

    def bytes_per_task(self) -> int:
        """See `ContinualMethod`."""
        return round(sum(task.nbytes for task in self.tasks.values()) / max(len(self.tasks), 1))

    def _bytes_read_always(self) -> int:
        router = self.router.stored_bytes() if self.tasks else 0
        return tower_bytes(self.workbench.backbone) + router + self.shared_bytes

    def _embed(self, batch: TestBatch, task: str, places: list[int] | None = None) -> Tensor:
        def embed(images: Tensor) -> Tensor:
            if self._last is None or self._last[0] != task:
                self._last = task, self.tasks[task].tower(self.workbench.backbone)
            return self.workbench.embed(images, self._last[1])

        return self.workbench.kept.rows.of(self._keys[task], batch, embed, places)


class CompressedModels(_CompressedModels):
    """Each task's model by itself."""

    def __init__(self, compress: Compress, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Raise `TaskFileError` for parameters of the router out of range."""
        super().__init__(workbench, parameters)
        self._compress = compress

    def add(self, task: FinetunedTask) -> None:
        """Compress one more model. Raises `TaskFileError` for a task without seeds, which no image could be sent to."""
        self.router.add(task)
        bench, seeds = self.workbench, tuple(task.calibration_images.paths)
        self.tasks = {**self.tasks, task.name: self._compress(task, bench, **self.parameters)}
        key = (self._compress, *self.parameters.items(), bench.seed, task.name, seeds)
        self._keys = {**self._keys, task.name: key}


class ModelsCompressedTogether(_CompressedModels):
    """All tasks at once, anew with each that is added: where they are compressed, every fine-tuned model is kept."""

    def __init__(self, compress: CompressTogether, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Raise `TaskFileError` for parameters of the router out of range."""
        super().__init__(workbench, parameters)
        self._compress = compress
        self._finetuned: list[FinetunedTask] = []

    def add(self, task: FinetunedTask) -> None:
        """Compress the models of all tasks so far. Raises `TaskFileError` for a task without seeds."""
        self.router.add(task)
        self._finetuned.append(task)
        together = self._compress(self._finetuned, self.workbench, **self.parameters)
        self.tasks, self.shared_bytes, self._last = together.tasks, together.shared_bytes, None
        state = (self._compress, *self.parameters.items(), *self.tasks)
        self._keys = {name: (*state, name) for name in self.tasks}


def changed_parameters(tasks: Sequence[FinetunedTask], backbone: Parameters) -> list[str]:
    """Return the names of parameters that fine-tuning changed in at least one of the tasks; of others nothing is stored."""
    return [name for name, plain in backbone.items() if any(not torch.equal(task.finetuned[name], plain) for task in tasks)]


def parameter_bytes(parameters: Parameters) -> int:
    """Return the bytes of parameters in the precision they have."""
    return sum(value.numel() * value.element_size() for value in parameters.values())
