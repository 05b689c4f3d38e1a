"""A trace's layers, summed in the two ways that people ask about: by kind of layer, and by block."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport

_BLOCK = re.compile(r"(blocks\.)(\d+)(|\..*)")


@dataclass(frozen=True)
class Part:
    """Seconds of something in a run with an expert and in one without."""

    name: str
    named: float
    dense: float

    @property
    def extra(self) -> float:
        """Seconds that the expert costs here."""
        return self.named - self.dense


def operators(report: ProfileReport) -> list[Part]:
    """By operator, those that the expert makes longest first."""
    sums = [{item.operator: item.seconds for item in report.operators[graph].operators} for graph in ("named", "dense")]
    return sorted(_parts(*sums), key=lambda part: -abs(part.extra))


def layer_kinds(report: ProfileReport) -> list[Part]:
    """By layer, `blocks.*.fc1` for those of all blocks together, in the order of the graph."""
    return _parts(*(_grouped(report, graph, r"\1*\3") for graph in ("named", "dense")))


def blocks(report: ProfileReport) -> list[Part]:
    """By block, and by layer outside the blocks, in the order of the graph."""
    return _parts(*(_grouped(report, graph, r"\1\2") for graph in ("named", "dense")))


def _grouped(report: ProfileReport, graph: str, name: str) -> dict[str, float]:
    """Seconds of one graph's layers by `name`, made of a block's parts: "blocks.", its number, the layer in it."""
    sums: dict[str, float] = {}
    for item in report.operators[graph].layers:
        match = _BLOCK.fullmatch(item.layer)
        key = match.expand(name) if match else item.layer
        sums[key] = sums.get(key, 0.0) + item.seconds
    return sums


def _parts(named: dict[str, float], dense: dict[str, float]) -> list[Part]:
    return [Part(name, named.get(name, 0.0), dense.get(name, 0.0)) for name in named | dense]
