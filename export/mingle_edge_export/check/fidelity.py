"""How far a bundle may be from the PyTorch model it comes from, by the precision it is stored in."""

from __future__ import annotations

from dataclasses import dataclass

from mingle_edge_export.errors import OptionError
from mingle_edge_export.precision.weight_precision import Precision

MAX_ABS = 1e-4  # of embeddings of unit length, in fp32


@dataclass(frozen=True)
class Bounds:
    """What an export must keep, or fail."""

    cosine: float
    """at least, between an embedding and its reference"""
    route_agreement: float
    """at least, the share of routes that are the reference's"""
    accuracy_drop: float = 0.5
    """at most, points of accuracy lost on labelled images in the mean over tasks"""

    def __post_init__(self) -> None:
        for name, high in (("cosine", 1), ("route_agreement", 1), ("accuracy_drop", 100)):
            if not 0 <= getattr(self, name) <= high:
                raise OptionError(f"{name} is {getattr(self, name)}, must be between 0 and {high}")


DEFAULTS: dict[Precision, Bounds] = {
    "fp32": Bounds(0.99999, 1.0),
    "fp16": Bounds(0.9999, 0.99),
    "int8": Bounds(0.99, 0.9),
    "int4": Bounds(0.9, 0.8),
}
"""Of a bundle whose least precise part is stored so; in fp32 routes must agree wherever margins exceed rounding."""


def default_bounds(*precisions: Precision) -> Bounds:
    """The bounds of the least precise of these."""
    return DEFAULTS[max(precisions, key=list(DEFAULTS).index)]
