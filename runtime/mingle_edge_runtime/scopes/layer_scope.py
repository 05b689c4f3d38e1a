"""Bundles of the layer scope: the tower chooses experts layer by layer, from a page bank that this runtime maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.errors import BundleError
from mingle_edge_runtime.experts.page_bank import MappedPageBank, PageRange, page_ranges, touched_ranges
from mingle_edge_runtime.experts.store import ExpertStore
from mingle_edge_runtime.ort.session import CPU, Outputs, Placement, Session
from mingle_edge_runtime.scopes.route import LayerRoute, Route
from mingle_edge_runtime.scopes.scope import GoldenRuns


class LayerScope:
    """Runs the tower and has the pages that it used counted. Keeps the protocol `Scope`."""

    routed = None

    def __init__(
        self, bundle: Bundle, budget: int | None, providers: Sequence[str], threads: int | None, low_memory: bool = False
    ) -> None:
        """Map the page bank on the CPU provider, leave it to any other one to copy it, and open the tower.

        Arguments as in `open_scope`.
        """
        index = self._index = bundle.index
        layout = index.page_bank
        if layout is None:
            raise BundleError(f"{bundle.root} has no page bank: it is no bundle of the layer scope")
        self._layers = [layer.name for layer in layout.layers]
        maps = providers[0] == CPU
        bank = self._bank = MappedPageBank(bundle.open_file(layout.file), layout, index.task_names) if maps else None
        route = (len(layout.layers), -1)
        outputs: Outputs = {"image_embeds": (index.architecture.output_dim,), "route_tasks": route, "route_weights": route}
        self._tower = Session(
            bundle.graph(index.tower),
            providers,
            threads,
            outputs=outputs,
            initializers={layout.initializer: bank.pages} if bank else None,
            prepack=not low_memory,
            one_by_one=index.one_by_one,
            normalized=index.architecture.normalized,
        )
        ranges = page_ranges(layout, index.task_names)
        if bank:
            self.experts = ExpertStore[PageRange, None](
                ranges, bank.read, budget, index.top_k, drop=bank.drop, notes=bank.notes
            )
            return
        keeper = f"{providers[0]}, which keeps all experts resident,"
        notes = [f"{providers[0]} copied all experts to its device", *self._tower.fallback()]
        self.experts = ExpertStore(ranges, lambda task: None, budget, len(ranges), notes=notes, keeper=keeper)
        self.experts.prefetch(index.task_names)

    def route(self, pixels: NDArray[np.float32]) -> list[Route]:
        """Return n routes; takes a run of the whole tower."""
        return self.embed(pixels)[1]

    def embed(self, pixels: NDArray[np.float32], task: str | None = None) -> tuple[NDArray[np.float32], list[Route]]:
        """Return `[n, dim]` embeddings and the n routes taken; see `Scope.embed`."""
        if task is None:
            return self._run(pixels, self._index.top_k)
        if len(pixels):
            self.experts.expect(task)
        return self._run(pixels, 1, {"task_mask": np.array([name == task for name in self._index.task_names], np.float32)})

    def golden_runs(self, pixels: NDArray[np.float32]) -> GoldenRuns:
        """Return runs with each of `BundleIndex.golden_top_k` experts a layer, `[K, n, dim]`."""
        runs = {top_k: self._run(pixels, top_k) for top_k in self._index.golden_top_k}
        return GoldenRuns({"embeds": np.stack([embeds for embeds, _ in runs.values()])}, [runs[self._index.top_k]])

    def placement(self) -> dict[str, Placement]:
        """Return the nodes that each provider runs; see `EdgeModel.placement`."""
        return {self._tower.path.name: self._tower.placement()}

    def _run(
        self, pixels: NDArray[np.float32], top_k: int, inputs: dict[str, NDArray[Any]] | None = None
    ) -> tuple[NDArray[np.float32], list[Route]]:
        """Return embeddings and routes with `top_k` experts in each layer."""
        if not len(pixels):  # kernels exist that divide by the number of images, and end the process
            return np.empty((0, self._index.architecture.output_dim), np.float32), []
        outputs = self._tower.run({"pixel_values": pixels, "top_k": np.array([top_k], np.int64), **(inputs or {})})
        tasks, weights = outputs["route_tasks"], outputs["route_weights"]  # [n, layers, k]
        if tasks.size and not 0 <= tasks.min() <= tasks.max() < len(self._index.tasks):
            raise BundleError(f"the tower routes to task {tasks.max()}, the bundle has {len(self._index.tasks)}")
        self.experts.touched(touched_ranges(tasks, len(self._index.tasks)))
        return outputs["image_embeds"], [self._route(*row) for row in zip(tasks, weights, strict=True)]

    def _route(self, tasks: NDArray[np.int64], weights: NDArray[np.float32]) -> Route:
        """Return the route of one image from `[layers, k]` task numbers and gate values."""
        names = self._index.task_names
        layers = tuple(
            LayerRoute(layer, tuple(names[t] for t in row), tuple(values))
            for layer, row, values in zip(self._layers, tasks.tolist(), weights.tolist(), strict=True)
        )
        chosen, counts = np.unique(tasks, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shares = counts[order] / counts.sum()
        return Route(tuple(names[t] for t in chosen[order]), tuple(shares.tolist()), layers=layers)
