"""Activation smoothing: difficult input channels of a layer shrink, its weights grow to match, and the function stays.

SmoothQuant (Xiao et al., arXiv 2211.10438, eq. 4, alpha 1/2): with one scale for a whole activation tensor, channels of large
values leave few codes to the others. Where a LayerNorm feeds linear layers, dividing its output by s and multiplying the input
channels of the layers by s changes nothing but how well both can be quantized. Everything that reads the same values follows:
the A of experts, and gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_export.graph.builder import Array

Arrays = dict[str, NDArray[np.float32]]
Gates = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True)
class Smoothing:
    """The factors s of a tower; without any, everything stays what it is."""

    norms: Mapping[str, Array] = field(default_factory=dict)
    """LayerNorm -> `[width]`, what its output is divided by"""
    layers: Mapping[str, Array] = field(default_factory=dict)
    """linear layer -> `[d_in]`, what its input channels are multiplied by"""

    @classmethod
    def from_peaks(
        cls, architecture: VisionArchitecture, backbone: Mapping[str, Array], peaks: Mapping[str, Array]
    ) -> Smoothing:
        """Find the factors that give inputs and weights equal shares of the difficulty.

        peaks: layer -> `[d_in]`, the largest magnitude of each input channel over calibration images.
        """
        norms: Arrays = {}
        layers: Arrays = {}
        for i in range(architecture.layers):
            for norm, readers in ((f"blocks.{i}.ln_1", ("q", "k", "v")), (f"blocks.{i}.ln_2", ("fc1",))):
                names = [f"blocks.{i}.{reader}" for reader in readers]
                weights = np.max([np.abs(backbone[f"{name}.weight"]).max(axis=0) for name in names], axis=0)
                seen = np.max([peaks[name] for name in names], axis=0)
                usable = (weights > 0) & (seen > 0)  # a channel that is never used stays what it is
                factors = np.sqrt(np.where(usable, seen, 1) / np.where(usable, weights, 1)).astype(np.float32)
                norms[norm] = factors
                layers |= dict.fromkeys(names, factors)
        return cls(norms, layers)

    def parameters(self, arrays: Mapping[str, Array]) -> Arrays:
        """Return a backbone or an expert by internal name with its LayerNorms, weights and A smoothed."""
        smoothed: Arrays = {}
        for name, value in arrays.items():
            owner, _, kind = name.rpartition(".")
            if owner in self.norms:  # weight and bias
                smoothed[name] = value / self.norms[owner]
            elif owner in self.layers and kind in ("weight", "A"):  # [d_out, d_in], [rank, d_in]
                smoothed[name] = value * self.layers[owner]
            else:
                smoothed[name] = value
        return smoothed

    def gates(self, gates: Gates) -> Gates:
        """Return learned gates by layer smoothed; their weights `[d_in]` read the same values as the layer."""
        return {layer: (weight * self.layers.get(layer, np.float32(1)), bias) for layer, (weight, bias) in gates.items()}
