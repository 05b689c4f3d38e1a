"""What an export reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mingle_edge_export.confidence_interval import Interval, mean_paired_difference
from mingle_edge_runtime.bundle.index import Task


@dataclass(frozen=True)
class PartParity:
    """How far one graph, or the tower under one expert, is from PyTorch: the worst of all batches."""

    part: str
    cosine: float | None
    """smallest, of an embedding with its reference; None where no embedding was compared"""
    agreeing: int
    """routes that are the reference's"""
    routes: int


@dataclass(frozen=True)
class Parity:
    """How far the graphs are from the merged model in PyTorch."""

    cosine: float
    """smallest, of an embedding with its reference"""
    max_abs: float
    """largest difference of an element of an embedding"""
    posterior: float
    """largest difference of a probability; 0 in the layer scope"""
    near_ties: int
    """in fp32, runs of an image that took another expert of equal contribution, to rounding, and were not compared further"""
    route_agreement: float
    """share of routes that are the reference's: of images (image scope), of choices of an expert in a layer (layer scope)"""
    parts: Sequence[PartParity] = ()
    """each graph, and the tower under each expert"""


@dataclass(frozen=True)
class PairedAccuracy:
    """How many of the same labeled images PyTorch and the bundle get right."""

    images: int
    before: int
    """right in PyTorch"""
    after: int
    """right in the bundle"""
    lost: int
    """right in PyTorch alone"""

    @property
    def percent(self) -> tuple[float, float]:
        """Return the accuracy in PyTorch and in the bundle, in percent."""
        return 100 * self.before / self.images, 100 * self.after / self.images


@dataclass(frozen=True)
class TaskAccuracy:
    """Accuracy on one task's labeled images, in PyTorch and in the bundle."""

    task: str
    named: PairedAccuracy
    """the task given (P2)"""
    routed: PairedAccuracy
    """the head given, the route not (P1)"""


def accuracy_drop(accuracies: Sequence[PairedAccuracy]) -> Interval:
    """Return the points of accuracy that the bundle loses in the mean over tasks, with a 95% confidence interval."""
    pairs = [(each.lost, each.lost + each.after - each.before, each.images) for each in accuracies]
    share = mean_paired_difference(pairs)
    return Interval(100 * share.estimate, 100 * share.low, 100 * share.high)


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how closely it computes what the merged model computes."""

    path: Path
    """of the bundle"""
    parity: Parity
    files: dict[str, int]
    """bytes by path in the bundle"""
    accuracy: Sequence[TaskAccuracy]
    """of the tasks with labeled images"""
    exact_layers: Sequence[str]
    """layers whose weights stayed in fp32"""
    tasks: Sequence[Task]
    """as the bundle's index has them: rank, precision and bytes of each expert, and what was measured of it"""
