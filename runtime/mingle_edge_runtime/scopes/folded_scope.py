"""Bundles of one task that is merged into the weights: no router, no expert, the cost of the dense tower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.experts.store import ExpertStore
from mingle_edge_runtime.ort.session import Placement, Session
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.scope import GoldenRuns


class FoldedScope:
    """Runs the tower; every route is the one task. Keeps the protocol `Scope`."""

    routed = None

    def __init__(
        self, bundle: Bundle, budget: int | None, providers: Sequence[str], threads: int | None, low_memory: bool = False
    ) -> None:
        """Open the tower; arguments as in `open_scope`."""
        index = bundle.index
        self._route = Route(index.task_names, (1.0,))
        self._tower = Session(
            bundle.graph(index.tower),
            providers,
            threads,
            outputs={"image_embeds": (index.architecture.output_dim,)},
            prepack=not low_memory,
            one_by_one=index.one_by_one,
            normalized=index.architecture.normalized,
        )
        nothing: dict[str, dict[str, int]] = {task: {} for task in index.task_names}
        self.experts = ExpertStore[str, None](nothing, lambda task: None, budget, 1, notes=self._tower.fallback())

    def route(self, pixels: NDArray[np.float32]) -> list[Route]:
        """Return the one route, n times."""
        return [self._route] * len(pixels)

    def embed(self, pixels: NDArray[np.float32], task: str | None = None) -> tuple[NDArray[np.float32], list[Route]]:
        """Return `[n, dim]` embeddings and the n routes; `task` can only be the one there is."""
        return self._tower.run({"pixel_values": pixels})["image_embeds"], self.route(pixels)

    def golden_runs(self, pixels: NDArray[np.float32]) -> GoldenRuns:
        """Return the one run there is."""
        embeds, routes = self.embed(pixels)
        return GoldenRuns({"embeds": embeds[None]}, [(embeds, routes)])

    def placement(self) -> dict[str, Placement]:
        """Return the nodes that each provider runs; see `EdgeModel.placement`."""
        return {self._tower.path.name: self._tower.placement()}
