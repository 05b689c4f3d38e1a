"""Which experts an image used: the route, for the whole network or layer by layer."""

from __future__ import annotations

from dataclasses import dataclass


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
    """how well the most probable task claims the image, to compare with the bundle's `confidence_bound`; None likewise"""
    layers: tuple[LayerRoute, ...] = ()
    """layer scope"""
