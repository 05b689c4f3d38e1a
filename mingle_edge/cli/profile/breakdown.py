"""A trace's seconds in a run with an expert and in one without: by operator, by kind of layer, and by block."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport

Parts: TypeAlias = dict[str, list[float]]
"""Seconds with an expert and without, by name."""
_GRAPHS = ("named", "dense")
_BLOCK = re.compile(r"^(blocks\.)(\d+)(\..*)?$")


def operators(report: ProfileReport) -> Parts:
    """By operator, those to which the expert makes the largest difference first."""
    parts = _summed([(item.operator, item.seconds) for item in report.operators[graph].operators] for graph in _GRAPHS)
    return dict(sorted(parts.items(), key=lambda part: -abs(part[1][0] - part[1][1])))


def layer_kinds(report: ProfileReport) -> Parts:
    """By layer, `blocks.*.fc1` for those of all blocks together, in the order of the graph."""
    return _grouped(report, r"\1*\3")


def blocks(report: ProfileReport) -> Parts:
    """By block, and by layer outside the blocks, in the order of the graph."""
    return _grouped(report, r"\1\2")


def _grouped(report: ProfileReport, name: str) -> Parts:
    """Sum layers by `name`, made of a block's parts: "blocks.", its number, the layer in it."""
    return _summed(
        [(_BLOCK.sub(name, item.layer), item.seconds) for item in report.operators[graph].layers] for graph in _GRAPHS
    )


def _summed(graphs: Iterable[list[tuple[str, float]]]) -> Parts:
    parts: Parts = {}
    for i, items in enumerate(graphs):
        for name, seconds in items:
            parts.setdefault(name, [0.0, 0.0])[i] += seconds
    return parts
