"""What a method of merging is to the comparison: it takes one task after another, and answers for images in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.seeds import SeedImages
from mingle_edge.vision_tower import Parameters

TRIALS = 5
"""Parameter sets tried when a method is tuned, the same number for every method that has something to tune."""


@dataclass(frozen=True)
class ComparedTask:
    """One fine-tuned model, its head and the unlabeled images a method may adapt on."""

    name: str
    finetuned: Parameters  # the complete tower by internal names, on the workbench's device
    head: Tensor  # [classes, output_dim], rows of unit length, on the workbench's device
    seeds: SeedImages


@dataclass(frozen=True)
class Workbench:
    """What every method works with."""

    backbone: Parameters  # on the device
    architecture: VisionArchitecture
    logit_scale: float
    device: torch.device
    seed: int  # of everything random
    kept: dict[str, Any] = field(default_factory=dict)  # outlives a cell: what does not depend on order or method, by key


@dataclass(frozen=True)
class TestBatch:
    """At most 64 images, all of one task; batch-pooled gates are pooled over them."""

    __test__ = False  # not a test class

    images: Tensor  # [n, 3, H, W], on the device
    task: str  # whose images they are; only `individual` may answer by it
    numbers: list[int]  # [n], of the images within `source`
    source: str  # identifies the test set and its corruption, for what is kept on the workbench


@dataclass(frozen=True)
class Answer:
    """Embeddings of a batch when the task is not told, and how they came about."""

    embeds: Tensor  # [n, output_dim], unit length
    posterior: Tensor | None = None  # [n, T] over tasks merged so far, from methods with a router
    claimed: Tensor | None = None  # [n], false where the router runs the plain backbone
    routed: Tensor | None = None  # [n], number of the task whose expert answered, -1 for the plain backbone


class ContinualMethod(Protocol):
    """One run of a method over one order of tasks."""

    def add(self, task: ComparedTask) -> None:
        """Merge one more task. Nothing of earlier tasks may be read but what the method itself kept."""

    def answer(self, batch: TestBatch) -> Answer:
        """Protocols P1 and P3: the task is not told. Also for tasks not merged yet, and before any is."""

    def answer_named(self, batch: TestBatch, task: str) -> Tensor | None:
        """Protocol P2: embeddings `[n, output_dim]` of unit length when the application names a task merged before.

        None where the name makes no difference to this method: then P2 is P1.
        """

    def stored_bytes(self) -> int:
        """What a device has to store for the tasks merged so far, at 4 bytes a parameter: backbone, experts, gates, router."""

    def active_bytes(self) -> int:
        """What is read for one image, at 4 bytes a parameter."""


Build = Callable[[Workbench, Mapping[str, Any]], ContinualMethod]


@dataclass(frozen=True)
class MethodSpec:
    """A method by name, with its published parameters and what is tried when it is tuned."""

    name: str
    summary: str  # one line: idea and source
    build: Build
    published: Callable[[int], dict[str, Any]]  # number of tasks -> every parameter with its published value
    grid: tuple[Mapping[str, Any], ...] = ()  # `TRIALS` parameter changes, or none where nothing is to be tuned
