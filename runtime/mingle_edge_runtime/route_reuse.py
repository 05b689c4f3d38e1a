"""Keeping a route while the picture hardly moves, and finding out how often that was wrong.

The signal is linear in the pixels and costs next to nothing: means of `pixel_values` over a coarse grid, whose root mean square
change since the frame that was *routed* is compared with that frame's own contrast. A cut changes it at once, a slow drift adds
up, as frames are never compared with their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.route import Route

THRESHOLD = 0.2
"""change over contrast; chosen on the tuning streams of `benchmarks/route_reuse.py`, which reports what it does on others"""
AUDIT_EVERY = 50
_CELLS = 8  # per side: 4 or 16 save no more at the same error


@dataclass(frozen=True)
class StreamStats:
    """What became of the frames of a stream."""

    frames: int = 0
    reused: int = 0
    """frames that ran with the route of an earlier one"""
    audited: int = 0
    """frames that would have, and were routed all the same to compare"""
    disagreed: int = 0
    """audited frames whose own route has other experts"""

    @property
    def disagreement(self) -> float | None:
        """Share of audited frames that disagreed: the error rate of reuse, as far as it was audited."""
        return self.disagreed / self.audited if self.audited else None


class RouteReuse:
    """The routes of one camera's frames, in their order."""

    def __init__(self, find: Callable[[NDArray[np.float32]], Route], threshold: float, audit_every: int) -> None:
        """find: the route of `pixel_values [1, 3, S, S]`. threshold: reuse at most up to this change over contrast.

        audit_every: of the frames that would reuse a route, every n-th is routed instead and compared.
        """
        self._find = find
        self._threshold = threshold
        self._audit_every = audit_every
        self._route: Route | None = None
        self._routed: NDArray[np.float32] = np.empty(0, np.float32)  # grid of the frame that was routed last
        self._stats = StreamStats()
        self._pool: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def route(self, pixels: NDArray[np.float32]) -> Route:
        """The route of the next frame, `[1, 3, S, S]`: its own, or that of the frame that was routed last."""
        grid = self._grid(pixels[0])
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
        return route

    def stats(self) -> StreamStats:
        """A snapshot of the counters."""
        return self._stats

    def _still(self, grid: NDArray[np.float32]) -> bool:
        change = float(np.square(grid - self._routed).mean())
        return change <= self._threshold**2 * float(self._routed.var())

    def _grid(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Means over the cells of a grid, `[3, S, S]` -> `[3, cells, cells]`."""
        side = image.shape[-1]
        if self._pool.shape[1] != side:
            cells = np.arange(side) * min(_CELLS, side) // side  # the cell of each row, and of each column
            member = (cells == np.arange(cells[-1] + 1)[:, None]).astype(np.float32)  # [cells, S]
            self._pool = (member / member.sum(1, keepdims=True)).astype(np.float32)
        grid: NDArray[np.float32] = (self._pool @ image @ self._pool.T).astype(np.float32)
        return grid
