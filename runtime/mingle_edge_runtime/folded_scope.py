"""Bundles of one task that is merged into the weights: no router, no expert, the cost of the dense tower."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.expert_budget import ExpertStats
from mingle_edge_runtime.route import Route
from mingle_edge_runtime.session import Placement, Session


class FoldedScope:
    """Runs the tower; every route is the one task."""

    def __init__(
        self, bundle: Bundle, budget: int | None, providers: Sequence[str], threads: int | None, low_memory: bool = False
    ) -> None:
        """See `EdgeModel.open`; providers are full names."""
        index = bundle.index
        self._route = Route(index.task_names, (1.0,))
        self._tower = Session(
            bundle.graph(index.tower),
            providers,
            threads,
            outputs={"image_embeds": (index.architecture.output_dim,)},
            prepack=not low_memory,
            one_by_one=index.one_by_one,
        )
        self._stats = ExpertStats(budget, notes=tuple(self._tower.fallback()))

    def prepare_routing(self) -> None:
        """Nothing to do: there is one route."""

    def route(self, pixels: NDArray[np.float32]) -> list[Route]:
        """The one route for each image of `[n, 3, S, S]`."""
        return [self._route] * len(pixels)

    def embed(self, pixels: NDArray[np.float32], task: str | None = None) -> tuple[NDArray[np.float32], list[Route]]:
        """`[n, dim]` embeddings of unit length and the n routes; `task` can only be the one there is."""
        return self._tower.run({"pixel_values": pixels})["image_embeds"], self.route(pixels)

    def prefetch(self, tasks: Iterable[str]) -> None:
        """Nothing: there is no expert to read."""

    def pin(self, tasks: Iterable[str]) -> None:
        """Nothing: there is no expert to keep."""

    def set_budget(self, budget: int | None) -> None:
        """Nothing but a number: there is no expert."""
        self._stats = self._stats.under(budget)

    def placement(self) -> dict[str, Placement]:
        """See `EdgeModel.placement`."""
        return {self._tower.path.name: self._tower.placement()}

    def stats(self) -> ExpertStats:
        """Counters that stay at zero."""
        return self._stats
