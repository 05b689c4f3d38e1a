"""One cell of a comparison: one method over one order of tasks, evaluated on one part of the images, corrupted or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mingle_edge import __version__
from mingle_edge.data.corruptions import Corruption

if TYPE_CHECKING:
    from mingle_edge.comparison.material import Material

VERSION = 4  # of what a cell computes; another one makes all kept cells worthless

Part = Literal["test", "tune"]
PARTS: tuple[Part, ...] = ("test", "tune")


@dataclass(frozen=True)
class Cell:
    """What is to be computed; equal cells on equal material have equal results, timings aside."""

    label: str
    method: str
    parameters: Mapping[str, Any]  # of the method
    order: tuple[str, ...]
    seed: int
    seeds_per_class: int | None = None  # None: as the task file says
    part: Part = "test"
    corruption: Corruption | None = None
    every_step: bool = True  # accuracy of all tasks so far after each step; otherwise right after their own and in the end
    step_images: int | None = None  # images per task for states that are neither a task's own nor the last; None: all
    unmerged: tuple[str, ...] = ()  # tasks that are never merged, whose images are evaluated in the last state

    def key(self, material: Material) -> str:
        """Return the SHA-256 of all that the result depends on, the label excepted."""
        record = asdict(self) | {"parameters": dict(self.parameters), "version": VERSION, "release": __version__}
        del record["label"]
        record["material"] = material.digest((*self.order, *self.unmerged), self.part, self.seeds_per_class)
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@dataclass
class CellResult:
    """Accuracies in percent, rows after 0, 1, ... T tasks, columns in the cell's order; None where not measured."""

    accuracy: dict[str, list[list[float | None]]]
    seconds: list[float]  # to add each task
    stored_bytes: int = 0
    active_bytes: int = 0
    bytes_per_task: int = 0
    latency_ratio: float | None = None  # one image, over the plain backbone; interleaved
    routes: list[list[float]] | None = None  # last state, percent: row task, column task routed to, then the plain backbone
    confusion: list[list[float]] = field(default_factory=list)  # P3, last state, percent: row task, column task of the label
    stored_after: list[int] = field(default_factory=list)  # bytes stored after each task
    multiply_adds: list[float] = field(default_factory=list)  # of one image: of the plain backbone, then after each task
    unmerged: dict[str, float] | None = None  # accuracy on tasks never merged, last state, their heads given, by task
    refused: dict[str, float] | None = None  # share of their images that no task claims, percent; None without a router
