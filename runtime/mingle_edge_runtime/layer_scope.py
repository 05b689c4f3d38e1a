"""Bundles of the layer scope: the tower chooses experts layer by layer, from a page bank that this runtime maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle import Bundle, PageBank
from mingle_edge_runtime.errors import BudgetError, BundleError
from mingle_edge_runtime.expert_budget import ExpertStats
from mingle_edge_runtime.page_bank import MappedPageBank
from mingle_edge_runtime.route import LayerRoute, Route
from mingle_edge_runtime.session import CPU, Outputs, Placement, Session


class LayerScope:
    """Runs the tower and keeps the account of the pages it used."""

    def __init__(
        self, bundle: Bundle, budget: int | None, providers: Sequence[str], threads: int | None, low_memory: bool
    ) -> None:
        """See `EdgeModel.open`; providers are full names."""
        self._index = bundle.index
        layout = self._index.page_bank
        if layout is None:
            raise BundleError(f"{bundle.root} has no page bank: it is no bundle of the layer scope")
        self._layers = [layer.name for layer in layout.layers]
        graph = bundle.graph(self._index.tower)
        self._bank: MappedPageBank | None = None
        self._everything = ExpertStats(budget)
        self._provider = providers[0]
        route = (len(layout.layers), -1)
        embeds = (self._index.architecture.output_dim,)
        outputs: Outputs = {"image_embeds": embeds, "route_tasks": route, "route_weights": route}
        if providers[0] == CPU:
            self._bank = self._map(bundle, layout, budget)
            pages = {layout.initializer: self._bank.pages}
            options: Any = {"initializers": pages}
        else:
            self._everything = self._copied(bundle.index.files[layout.file].size, budget, providers[0])
            options = {}
        options |= {"prepack": not low_memory, "one_by_one": self._index.one_by_one}
        self._tower = Session(graph, providers, threads, outputs=outputs, **options)
        self._everything = replace(self._everything, notes=(*self._everything.notes, *self._tower.fallback()))

    def prepare_routing(self) -> None:
        """Nothing to do: the tower routes."""

    def route(self, pixels: NDArray[np.float32]) -> list[Route]:
        """One route per image of `[n, 3, S, S]`; takes a run of the whole tower."""
        return self.embed(pixels)[1]

    def embed(
        self, pixels: NDArray[np.float32], task: str | None = None, top_k: int | None = None
    ) -> tuple[NDArray[np.float32], list[Route]]:
        """`[n, dim]` embeddings of unit length and the n routes taken.

        task: use this task's experts alone. top_k: experts per layer, the bundle's own number when None.
        """
        if not len(pixels):  # kernels exist that divide by the number of images, and end the process
            return np.empty((0, self._index.architecture.output_dim), np.float32), []
        inputs: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {"pixel_values": pixels}
        if task is not None:
            top_k = 1
            if self._bank:
                self._bank.expect(task)
            inputs["task_mask"] = np.array([name == task for name in self._index.task_names], np.float32)
        if top_k is not None:
            inputs["top_k"] = np.array([top_k], np.int64)
        outputs = self._tower.run(inputs)
        tasks, weights = outputs["route_tasks"], outputs["route_weights"]  # [n, layers, k]
        if tasks.size and not 0 <= tasks.min() <= tasks.max() < len(self._index.tasks):
            raise BundleError(f"the tower routes to task {tasks.max()}, the bundle has {len(self._index.tasks)}")
        if self._bank:
            self._bank.used(tasks)
        return outputs["image_embeds"], [self._route(*row) for row in zip(tasks, weights, strict=True)]

    def prefetch(self, tasks: Iterable[str]) -> None:
        """See `MappedPageBank.prefetch`."""
        if self._bank:
            self._bank.prefetch(tasks)

    def pin(self, tasks: Iterable[str]) -> None:
        """See `MappedPageBank.pin`."""
        if self._bank:
            self._bank.pin(tasks)

    def set_budget(self, budget: int | None) -> None:
        """See `MappedPageBank.set_budget`."""
        if self._bank:
            self._bank.set_budget(budget)
        else:
            _check_whole(self._everything.resident_bytes, budget, self._provider)
            self._everything = self._everything.under(budget)

    def stats(self) -> ExpertStats:
        """See `MappedPageBank.stats`."""
        return self._bank.stats() if self._bank else self._everything

    def placement(self) -> dict[str, Placement]:
        """See `EdgeModel.placement`."""
        return {self._tower.path.name: self._tower.placement()}

    def _map(self, bundle: Bundle, layout: PageBank, budget: int | None) -> MappedPageBank:
        return MappedPageBank(bundle.open_file(layout.file), layout, self._index.task_names, budget, self._index.top_k)

    def _copied(self, size: int, budget: int | None, provider: str) -> ExpertStats:
        """The counters of a provider that copies all experts, `size` bytes, to its device when it loads the graph."""
        _check_whole(size, budget, provider)
        note = f"{provider} copied all experts to its device"
        return ExpertStats(budget, resident_bytes=size, peak_bytes=size, bytes_loaded=size, notes=(note,))

    def _route(self, tasks: NDArray[np.int64], weights: NDArray[np.float32]) -> Route:
        """The route of one image from `[layers, k]` task numbers and gate values."""
        names = self._index.task_names
        layers = tuple(
            LayerRoute(layer, tuple(names[t] for t in row), tuple(values))
            for layer, row, values in zip(self._layers, tasks.tolist(), weights.tolist(), strict=True)
        )
        chosen, counts = np.unique(tasks, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shares = counts[order] / counts.sum()
        return Route(tuple(names[t] for t in chosen[order]), tuple(shares.tolist()), layers=layers)


def _check_whole(size: int, budget: int | None, provider: str) -> None:
    """Raise `BudgetError` where `budget` bytes cannot hold all experts, `size` bytes, which a copying provider keeps."""
    if budget is not None and budget < size:
        raise BudgetError(f"{provider} keeps all experts resident, {size} bytes: a budget of {budget} is too small")
