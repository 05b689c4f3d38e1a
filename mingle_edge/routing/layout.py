"""Where in a router's features each stage of the cascade finds its own. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.routing.cascade import Cascade
from mingle_edge.routing.statistics import MOMENTS

PIXELS = 620
"""Statistics of the pixels, whatever the size of the images."""


@dataclass(frozen=True)
class Layout:
    """Features in this order: statistics of the pixels, moments of each depth, the plain backbone's embedding."""

    width: int
    depths: int  # the embedded image, and the blocks that moments are taken after
    dim: int  # of the embedding

    @classmethod
    def of(cls, architecture: VisionArchitecture, blocks: int) -> Layout:
        """Return the layout for an architecture, with moments up to so many blocks."""
        return cls(architecture.width, blocks + 1, architecture.output_dim)

    @property
    def features(self) -> int:
        """Return how many there are."""
        return PIXELS + self.depths * MOMENTS * self.width + self.dim

    def of_stages(self, cascade: Cascade) -> list[NDArray[np.int64]]:
        """Return, for each stage of a cascade, the numbers of the features that it reads."""
        blocks = next((stage.blocks for stage in cascade.stages if stage.name == "blocks"), None)
        columns = {
            "pixels": self.columns(None),
            "blocks": self.columns(blocks),
            "embedding": self.columns(blocks, embedding=True),
        }
        return [columns[stage.name] for stage in cascade.stages]

    def columns(self, blocks: int | None, embedding: bool = False) -> NDArray[np.int64]:
        """Return the numbers of the pixels' statistics, of moments up to so many blocks (None: none), and of the embedding."""
        moments = 0 if blocks is None else (blocks + 1) * MOMENTS * self.width
        after = np.arange(self.features - self.dim, self.features if embedding else self.features - self.dim)
        return np.concatenate([np.arange(PIXELS + moments), after])
