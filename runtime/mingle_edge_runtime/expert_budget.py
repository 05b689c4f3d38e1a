"""The byte budget of resident experts, and the counters of what keeping it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from mingle_edge_runtime.errors import BudgetError


@dataclass(frozen=True)
class ExpertStats:
    """What the experts cost since the bundle was opened."""

    budget: int | None
    """bytes; None: no limit"""
    resident_bytes: int = 0
    """bytes of experts held now"""
    peak_bytes: int = 0
    """bytes of experts held at most"""
    pinned_bytes: int = 0
    """bytes of experts that are never evicted"""
    hits: int = 0
    """requests for an expert that was resident"""
    misses: int = 0
    """requests that had to wait for one to be opened"""
    evictions: int = 0
    bytes_loaded: int = 0
    """bytes of experts that were made resident, prefetched ones included"""
    stall_seconds: float = 0.0
    """seconds that runs waited for experts to be opened and read"""
    overshoot_bytes: int = 0
    """largest excess over the budget, reached when everything resident was in use or pinned"""
    notes: tuple[str, ...] = ()
    """what this machine or provider does differently"""

    def plus(self, **changes: float) -> ExpertStats:
        """These counters with `changes` added to them, and the extremes brought up to date."""
        stats = replace(self, **{name: getattr(self, name) + change for name, change in changes.items()})
        excess = stats.resident_bytes - stats.budget if stats.budget is not None else 0
        return replace(
            stats,
            peak_bytes=max(stats.peak_bytes, stats.resident_bytes),
            overshoot_bytes=max(stats.overshoot_bytes, excess),
        )

    def under(self, budget: int | None) -> ExpertStats:
        """These counters with another budget from now on."""
        return replace(self, budget=budget).plus()


def check_budget(budget: int | None, sizes: Mapping[str, int], pinned: Collection[str], together: int) -> None:
    """Raise `BudgetError` where `budget` bytes cannot hold the `pinned` experts beside any `together` others.

    sizes: bytes of each task's expert. together: how many one image uses at once.
    """
    others = sorted((size for task, size in sizes.items() if task not in pinned), reverse=True)
    least = sum(sizes[task] for task in pinned) + sum(others[:together])
    if budget is not None and budget < least:
        what = f"pinning {', '.join(sorted(pinned))} beside the others" if pinned else "the largest expert in use"
        raise BudgetError(f"an expert budget of {budget} bytes is too small: {what} needs {least}")
