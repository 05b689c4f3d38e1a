"""One camera: its frames one after the other, which may share a route while the picture hardly moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.images.decoding import Picture
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.scopes.prediction import Prediction
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.route_reuse import RouteReuse, StreamStats
from mingle_edge_runtime.scopes.scope import Scope

Predictor: TypeAlias = Callable[[NDArray[np.float32], Sequence[Route]], list[Prediction]]


class Stream:
    """Frames of one camera, from one thread; several streams may share a model."""

    def __init__(
        self,
        scope: Callable[[], Scope],
        spec: Preprocess,
        predictor: Callable[[int, str | None, float | None], Predictor],
        reuse: tuple[float, int] | None,
    ) -> None:
        """Use `EdgeModel.stream`."""
        self._scope, self._spec, self._predictor = scope, spec, predictor
        routed = scope().routed  # None for a folded bundle, which has one route
        found = self._found = list[NDArray[np.float32]]()  # `[1, dim]`, of a frame whose route was found

        def find(pixels: NDArray[np.float32]) -> Route:
            """Find a frame's own route by the run that answers it, of which the router may need a part."""
            embeds, routes = scope().embed(pixels)
            found.append(embeds)
            return routes[0]

        self._reuse = RouteReuse(find, *reuse) if reuse and routed else None
        self._frames = 0

    def classify(
        self, frame: Picture, top: int = 5, head: str | None = None, *, reject_below: float | None = None
    ) -> Prediction:
        """Return the `top` most probable labels of the next frame; see `EdgeModel.classify`.

        `route` of the prediction is the one that ran, posterior and confidence included: the present frame's own, or that of
        the frame that was routed last.
        """
        predictions = self._predictor(top, head, reject_below)
        return predictions(*self._run(frame))[0]

    def embed(self, frame: Picture) -> NDArray[np.float32]:
        """Return `[dim]`, the embedding of the next frame."""
        embed: NDArray[np.float32] = self._run(frame)[0][0]
        return embed

    def stats(self) -> StreamStats:
        """Return what became of the frames so far, and how often an audited frame had another route."""
        return self._reuse.stats() if self._reuse else StreamStats(self._frames)

    def _run(self, frame: Picture) -> tuple[NDArray[np.float32], list[Route]]:
        scope = self._scope()
        pixels = preprocess([frame], self._spec)
        self._frames += 1
        if self._reuse is None or scope.routed is None:
            return scope.embed(pixels)
        routes = [self._reuse.route(pixels)]
        return self._found.pop() if self._found else scope.routed.embed_routed(pixels, routes), routes
