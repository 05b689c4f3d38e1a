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
    """probability of every task of the bundle, in its order, by the last stage of the router that the image needed; None where
    the task was named, and in the layer scope"""
    confidence: float | None = None
    """how much the image is like one of the tasks, by that stage, to compare with `confidence_bound`; None without a router"""
    layers: tuple[LayerRoute, ...] = ()
    """layer scope"""
    candidates: tuple[str, ...] | None = None
    """the task of each probability in `posterior`; None without a router"""
    confidence_bound: float | None = None
    """least confidence that the stage settles an image with, in float32; with less at the last stage it runs on the plain
    backbone; None without a router"""
    stage: str | None = None
    """what settled the route: `pixels`, `blocks`, `embedding`, or `experts`, which is the judge; None without a router"""
    expected_loss: float | None = None
    """share of labels that images like this one are expected to lose by this choice, against the own expert of each"""
    runner_up: str | None = None
    """the expert that was to be next by its expected loss, or that the judge decided against; None without a router"""
    group: str | None = None
    """of the first of `tasks`; None where tasks have no groups"""

    @property
    def claimed(self) -> bool | None:
        """Return whether an expert was chosen, not the plain backbone; None where no router was asked."""
        return None if self.confidence is None else bool(self.tasks)

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
            "stage": self.stage,
            "expected_loss": finite(self.expected_loss),
            "runner_up": self.runner_up,
            "group": self.group,
            "layers": [
                {"layer": part.layer, "tasks": list(part.tasks), "weights": [finite(weight) for weight in part.weights]}
                for part in self.layers
            ],
        }


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold; None for NaN and infinity, which it cannot."""
    return value if value is not None and math.isfinite(value) else None
