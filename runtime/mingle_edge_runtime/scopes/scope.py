"""The protocol that everything serving a bundle keeps, whatever the bundle's scope.

`image_scope` routes an image once for the whole network, `layer_scope` layer by layer inside the tower, `folded_scope` has one
task merged into the weights. Callers know this protocol alone; what one scope can do and others cannot is `Scope.routed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.experts.store import ExpertStore
from mingle_edge_runtime.ort.session import Placement
from mingle_edge_runtime.scopes.route import Route


class GoldenRuns(NamedTuple):
    """The runs that a bundle's golden outputs record, as one machine computes them for n images."""

    arrays: dict[str, NDArray[Any]]
    """arrays of golden.npz by name, all but `probabilities`"""
    competitions: list[tuple[NDArray[np.float32], list[Route]]]
    """for each row of `probabilities`: embeddings `[n, dim]` and routes whose labels of all tasks compete"""


class Scope(Protocol):
    """Finds routes, makes experts resident, and runs the tower. Safe to use from several threads.

    Images are `pixel_values [n, 3, S, S]`, n may be 0. Raises `BundleError` where a graph does not run or computes what it must
    not, `ExpertError` where an expert cannot be read, `DeviceMemoryError` where the device's memory is full.
    """

    @property
    def experts(self) -> ExpertStore[Any, Any]:
        """Return the experts with their budget, pins and counters; of a folded bundle they are empty."""

    @property
    def routed(self) -> RoutedScope | None:
        """Return this scope where routes are found before the tower runs; None where the tower finds them, or there is one."""

    def route(self, pixels: NDArray[np.float32]) -> list[Route]:
        """Return the n routes that `embed` would take."""

    def embed(self, pixels: NDArray[np.float32], task: str | None = None) -> tuple[NDArray[np.float32], list[Route]]:
        """Return `[n, dim]` embeddings, of unit length unless the architecture says otherwise, and the n routes taken.

        task: use this task's expert alone instead of finding routes.
        """

    def golden_runs(self, pixels: NDArray[np.float32]) -> GoldenRuns:
        """Return what the golden outputs of this bundle record, for these images."""

    def placement(self) -> dict[str, Placement]:
        """Return the nodes that each provider runs, by graph; see `EdgeModel.placement`."""


class RoutedScope(Scope, Protocol):
    """A scope whose routes are found before its tower runs, so that the route of one image can serve another."""

    def prepare_routing(self) -> None:
        """Open what of the router is not open yet."""

    def run_stages(self, pixels: NDArray[np.float32]) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield the outputs of each of the router's stages for all n images, at least 1, whether they are in doubt or not.

        That of embeddings runs the plain backbone first; no expert runs.
        """

    def route(self, pixels: NDArray[np.float32], group: str | None = None) -> list[Route]:
        """Return what `Scope.route` does, where tasks of this group alone compete."""

    def embed(
        self, pixels: NDArray[np.float32], task: str | None = None, group: str | None = None
    ) -> tuple[NDArray[np.float32], list[Route]]:
        """Return what `Scope.embed` does, where tasks of this group alone compete."""

    def embed_routed(self, pixels: NDArray[np.float32], routes: Sequence[Route]) -> NDArray[np.float32]:
        """Return `[n, dim]` embeddings by n given routes; one without tasks is the plain backbone."""
