"""The byte budget of resident experts, and the counters of what keeping it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from mingle_edge_runtime.errors import BudgetError

_FULL = "the device's memory was full"


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
        """Return these counters with `changes` added, and the extremes brought up to date."""
        stats = replace(self, **{name: getattr(self, name) + change for name, change in changes.items()})
        excess = stats.resident_bytes - stats.budget if stats.budget is not None else 0
        return replace(
            stats, peak_bytes=max(stats.peak_bytes, stats.resident_bytes), overshoot_bytes=max(stats.overshoot_bytes, excess)
        )

    def under(self, budget: int | None) -> ExpertStats:
        """Return these counters with another budget from now on."""
        return replace(self, budget=budget).plus()

    def lowered(self, budget: int) -> ExpertStats:
        """Return these counters under a budget that the device's memory dictates, with one note that says so."""
        budget = budget if self.budget is None else min(budget, self.budget)
        others = tuple(note for note in self.notes if not note.startswith(_FULL))
        return replace(self, budget=budget, notes=(*others, f"{_FULL}: the expert budget is now {budget} bytes"))


def least_budget(sizes: Mapping[str, int], pinned: Collection[str], together: int) -> int:
    """Return the bytes that the `pinned` experts and any `together` others need.

    sizes: bytes of each task's expert. together: the number of experts that one image uses at once.
    """
    others = sorted((size for task, size in sizes.items() if task not in pinned), reverse=True)
    return sum(sizes[task] for task in pinned) + sum(others[:together])


def check_budget(
    budget: int | None, sizes: Mapping[str, int], pinned: Collection[str], together: int, keeper: str | None = None
) -> None:
    """Raise `BudgetError` where `budget` bytes are less than `least_budget`.

    keeper: what needs so much, for the message; None: the pinned experts or those in use.
    """
    least = least_budget(sizes, pinned, together)
    if budget is not None and budget < least:
        what = f"pinning {', '.join(sorted(pinned))} beside the others" if pinned else "the largest expert in use"
        raise BudgetError(f"an expert budget of {budget} bytes is too small: {keeper or what} needs {least} bytes")
