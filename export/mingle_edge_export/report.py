"""What an export reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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


@dataclass(frozen=True)
class TaskAccuracy:
    """Percent of one task's labeled images that are right, in PyTorch and in the bundle."""

    task: str
    images: int
    named: tuple[float, float]
    """the task given (P2)"""
    routed: tuple[float, float]
    """the head given, the route not (P1)"""


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
