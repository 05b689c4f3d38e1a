"""Which experts an image used: the route, for the whole network or layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRoute:
    """The experts of one layer (layer scope)."""

    layer: str
    """internal name"""
    tasks: tuple[str, ...]
    """k tasks, largest contribution first"""
    weights: tuple[float, ...]
    """their gate values, which may be negative"""


@dataclass(frozen=True)
class Route:
    """The experts one image used."""

    tasks: tuple[str, ...]
    """most important first; empty where the image ran on the plain backbone"""
    weights: tuple[float, ...]
    """summing to 1: the experts' weights (image scope), or their shares of the layers' choices (layer scope)"""
    posterior: tuple[float, ...] | None = None
    """probability of every task of the bundle, in its order; None where the task was named, and in the layer scope"""
    confidence: float | None = None
    """how well the most probable task claims the image, to compare with `confidence_bound`; None without a router"""
    layers: tuple[LayerRoute, ...] = ()
    """layer scope"""
    candidates: tuple[str, ...] | None = None
    """the task of each probability in `posterior`; None without a router"""
    confidence_bound: float | None = None
    """least confidence that claims an image, in float32; with less it runs on the plain backbone; None without a router"""

    @property
    def claimed(self) -> bool | None:
        """Return whether the most probable task claims the image; None where no router was asked."""
        if self.confidence is None or self.confidence_bound is None:
            return None
        return self.confidence >= self.confidence_bound

    def posterior_by_task(self) -> dict[str, float] | None:
        """Return the probability of every task of the bundle by its name; None where no router was asked."""
        if self.posterior is None or self.candidates is None:
            return None
        return dict(zip(self.candidates, self.posterior, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: names, numbers and None, which stands for a number that is not finite, too."""
        return {
            "tasks": list(self.tasks),
            "weights": [finite(weight) for weight in self.weights],
            "posterior": self.posterior_by_task(),
            "confidence": finite(self.confidence),
            "confidence_bound": finite(self.confidence_bound),
            "claimed": self.claimed,
            "layers": [
                {"layer": part.layer, "tasks": list(part.tasks), "weights": [finite(weight) for weight in part.weights]}
                for part in self.layers
            ],
        }


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold; None for NaN and infinity, which it cannot."""
    return value if value is not None and math.isfinite(value) else None
