"""A merged model as it is exported: its files are read once, as far as memory allows, and experts cut to the chosen ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from mingle_edge.merging.merged_model import MergedModel
from mingle_edge.merging.tensor_file import Arrays

KEPT_EXPERTS = 8  # of ViT-B/32 and rank 64 they take 340 MB


@dataclass(frozen=True)
class CachedModel(MergedModel):
    """A merged model that keeps what it has read: backbone, router, heads and gates, and the experts used last.

    So every tensor of a model of few tasks is read once, and memory does not grow with the experts of many. Nobody writes
    into what it returns.
    """

    ranks: Mapping[str, int] = field(default_factory=dict)
    """task -> directions kept of each layer of its expert; all where absent"""

    def __post_init__(self) -> None:
        for name, kept in (("backbone", 1), ("cascade", 1), ("head", None), ("gates", None), ("expert", KEPT_EXPERTS)):
            object.__setattr__(self, name, lru_cache(kept)(getattr(self, name)))

    def expert(self, task: str) -> Arrays:
        """Return a task's expert with the first directions of each layer, those that its stored expert orders first."""
        rank = self.ranks.get(task)
        return super().expert(task) if rank is None else first_directions(super().expert(task), rank)


def first_directions(expert: Arrays, rank: int) -> Arrays:
    """Return the expert of `rank` that is nested in another: of A `[r, d_in]` the first rows, of B `[d_out, r]` columns."""
    cut = {name: value[:rank] for name, value in expert.items() if name.endswith(".A")}
    cut |= {name: np.ascontiguousarray(value[:, :rank]) for name, value in expert.items() if name.endswith(".B")}
    return {name: cut.get(name, value) for name, value in expert.items()}
