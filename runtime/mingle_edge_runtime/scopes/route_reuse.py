"""Keeping a route while the picture hardly moves, and finding out how often that was wrong.

The signal is linear in the pixels and costs next to nothing: means of `pixel_values` over a coarse grid, whose root mean square
change since the frame that was *routed* is compared with that frame's own contrast. A cut changes it at once, a slow drift adds
up, as frames are never compared with their neighbors. The less sure that frame's route was, the less change is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.scopes.route import Route

THRESHOLD = 0.6
"""change over contrast; chosen on the tuning streams of `benchmarks/route_reuse.py`, which reports what it does on others"""
AUDIT_EVERY = 50
_CELLS = 8  # per side: 4 or 16 save no more at the same error
_CAUTION = 16  # exponent of the margin, chosen likewise: 8 and 32 are no better


@dataclass(frozen=True)
class StreamStats:
    """What became of the frames of a stream."""

    frames: int = 0
    reused: int = 0
    """frames that ran with the route of an earlier one"""
    audited: int = 0
    """frames that would have reused a route, and were routed all the same to compare"""
    disagreed: int = 0
    """audited frames whose own route has other experts"""

    @property
    def disagreement(self) -> float | None:
        """Return the share of audited frames that disagreed: the error rate of reuse, as far as it was audited."""
        return self.disagreed / self.audited if self.audited else None


class RouteReuse:
    """The routes of one camera's frames, in their order."""

    def __init__(self, find: Callable[[NDArray[np.float32]], Route], threshold: float, audit_every: int) -> None:
        """Keep routes that `find` finds for `pixel_values [1, 3, S, S]`.

        threshold: reuse a route at most up to this change over contrast, where it was sure; times `margin^16` where its
        margin, in probability, over the next best task was under 1.
        audit_every: of the frames that would reuse a route, every n-th is routed instead and compared.
        """
        self._find = find
        self._threshold = threshold
        self._audit_every = audit_every
        self._route: Route | None = None
        self._tolerance = 0.0
        self._routed: NDArray[np.float32] = np.empty(0, np.float32)  # grid of the frame that was routed last
        self._stats = StreamStats()

    def route(self, pixels: NDArray[np.float32]) -> Route:
        """Return the route of the next frame, `[1, 3, S, S]`: its own, or that of the frame that was routed last."""
        grid = cell_means(pixels[0])
        known = self._route if self._route is not None and self._still(grid) else None
        stats = replace(self._stats, frames=self._stats.frames + 1)
        if known is not None and (stats.reused + stats.audited + 1) % self._audit_every:
            self._stats = replace(stats, reused=stats.reused + 1)
            return known
        route = self._find(pixels)
        if known is not None:
            disagreed = stats.disagreed + (route.tasks != known.tasks)
            stats = replace(stats, audited=stats.audited + 1, disagreed=disagreed)
        self._stats, self._route, self._routed = stats, route, grid
        self._tolerance = self._threshold * _margin(route) ** _CAUTION
        return route

    def stats(self) -> StreamStats:
        """Return a snapshot of the counters."""
        return self._stats

    def _still(self, grid: NDArray[np.float32]) -> bool:
        change = float(np.square(grid - self._routed).mean())
        return change <= self._tolerance**2 * float(self._routed.var())


def cell_means(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means over the cells of a grid, `[3, S, S]` -> `[3, cells, cells]`.

    Without a matrix product, whose idle threads would spin on the cores that the tower needs next.
    """
    side = image.shape[-1]
    cells = min(_CELLS, side)
    starts = np.arange(cells) * side // cells
    sizes = np.diff(starts, append=side).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(image, starts, axis=1), starts, axis=2)
    grid: NDArray[np.float32] = sums / (sizes[:, None] * sizes)
    return grid


def _margin(route: Route) -> float:
    """Return how much more probable the last task of a route is than the first one not in it, 1 where nothing tells.

    It is 0 where one that is not in it is more probable.
    """
    probable = route.posterior_by_task() or {}
    chosen, others = ([p for task, p in probable.items() if (task in route.tasks) == inside] for inside in (True, False))
    return max(0.0, min(chosen) - max(others)) if chosen and others else 1.0
