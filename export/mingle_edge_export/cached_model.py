"""A merged model whose files are read once, as far as memory allows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mingle_edge.merging.merged_model import MergedModel

KEPT_EXPERTS = 8  # of ViT-B/32 and rank 64 they take 340 MB


@dataclass(frozen=True)
class CachedModel(MergedModel):
    """A merged model that keeps what it has read: backbone, router, heads and gates, and the experts used last.

    So every tensor of a model of few tasks is read once, and memory does not grow with the experts of many. Nobody writes
    into what it returns.
    """

    def __post_init__(self) -> None:
        for name, kept in (("backbone", 1), ("router", 1), ("head", None), ("gates", None), ("expert", KEPT_EXPERTS)):
            object.__setattr__(self, name, lru_cache(kept)(getattr(super(), name)))
