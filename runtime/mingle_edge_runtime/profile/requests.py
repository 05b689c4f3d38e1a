"""The requests everything is timed on: which task each of them names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mingle_edge_runtime.profile.report import Switch


@dataclass(frozen=True)
class Requests:
    """Every task in turn, for `every` requests each."""

    tasks: int
    """how many there are"""
    every: int = 1

    def task(self, request: int) -> int:
        """Return the number of the task that a request names."""
        return request // self.every % self.tasks

    def switches(self, request: int) -> bool:
        """Return whether a request names another task than the one before."""
        return request > 0 and self.task(request) != self.task(request - 1)

    def switch(self, seconds: Sequence[float]) -> Switch | None:
        """Return what a change of task costs, of the times of requests 0, 1 ...; None where there are too few."""
        switching = [value for i, value in enumerate(seconds) if self.switches(i)]
        staying = [value for i, value in enumerate(seconds) if i and not self.switches(i)]
        if not switching:
            return None
        return Switch(float(np.median(switching)), float(np.median(staying)) if staying else None, max(seconds))
