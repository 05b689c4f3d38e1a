"""What a method of merging is to the comparison: it takes one task after another, and answers for images in between."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor

from mingle_edge.comparison.batches import ImageRows, TestBatch
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.routing.cascade import Cascade
from mingle_edge.routing.statistics import RouterStatistics

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """What outlives a cell: all that does not depend on order or method, by what it does depend on."""

    rows: ImageRows = field(default_factory=ImageRows)
    statistics: dict[Hashable, RouterStatistics] = field(default_factory=dict)
    cascades: dict[Hashable, Cascade] = field(default_factory=dict)
    experts: dict[Hashable, CompleteExpert] = field(default_factory=dict)
    embeds: dict[Hashable, Tensor] = field(default_factory=dict)
    scales: dict[Hashable, Mapping[str, float]] = field(default_factory=dict)


def once(kept: dict[Hashable, T], key: Hashable, compute: Callable[[], T]) -> T:
    """Return what is kept under a key, or what `compute` returns, which is kept then."""
    if key not in kept:
        kept[key] = compute()
    return kept[key]


@dataclass(frozen=True)
class Workbench(PretrainedModel):
    """What every method works with."""

    seed: int  # of everything random
    kept: Kept = field(default_factory=Kept)


class ContinualMethod(Protocol):
    """One run of a method over one order of tasks."""

    def add(self, task: FinetunedTask) -> None:
        """Merge one more task. Nothing of earlier tasks may be read but what the method itself kept."""

    def answer(self, batch: TestBatch) -> Answers:
        """Answer for images whose task is not told (P1 and P3). Also for tasks not merged yet, and before any is."""

    def answer_named(self, batch: TestBatch, task: str) -> Tensor | None:
        """Return embeddings `[n, output_dim]` of unit length when the application names a task merged before (P2).

        None where the name makes no difference to this method: then P2 is P1.
        """

    def stored_bytes(self) -> int:
        """Return what a device has to store for the tasks so far: backbone, experts, gates, router.

        At 4 bytes a parameter, unless the method itself stores it in fewer.
        """

    def active_bytes(self) -> int:
        """Return what of that is read for one image."""

    def bytes_per_task(self) -> int:
        """Return what one more task adds to what is stored, mean of those so far, without what only finds an image's task.

        0 where tasks add nothing, as in one set of weights.
        """
