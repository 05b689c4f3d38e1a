"""What a scope put into a bundle, as the index and the parity check need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mingle_edge_export.graph.builder import Array
from mingle_edge_runtime import bundle as fmt


@dataclass(frozen=True)
class StoredExpert:
    """One task's expert."""

    rank: int
    """largest among the layers"""
    size: int
    """bytes"""
    path: str | None = None
    """of its own file in the bundle (image scope)"""


@dataclass(frozen=True)
class Contents:
    """What depends on the scope."""

    tower: str
    """path in the bundle"""
    dense: str
    """likewise, of the tower without experts"""
    experts: Sequence[StoredExpert]
    """in the order of tasks"""
    router: fmt.Router | None = None
    """image scope"""
    defaults: fmt.Defaults | None = None
    """image scope"""
    page_bank: fmt.PageBank | None = None
    """layer scope"""
    norms: Array | None = None
    """layer scope: `||B_t A_t||_F` `[layers, T]`"""
