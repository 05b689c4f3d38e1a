"""Sections of the page: where the time of a run goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.charts import Bar, bars
from mingle_edge.cli.profile.table import milliseconds
from mingle_edge.pages.cards import details, section, table
from mingle_edge.pages.drawing import legend
from mingle_edge.pages.elements import Html

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport

_LEAST_SHARE = 0.005  # of a run, to be drawn; the table under a chart has all
_PAIR_LEGEND = legend([("named", "with an expert"), ("dense", "without")])


def operators(report: ProfileReport) -> Iterator[Html]:
    """Where the time goes, by operator."""
    if not report.operators:
        return
    cells = [
        [
            graph,
            *map(milliseconds, (trace.run_seconds, trace.kernel_seconds, max(0.0, trace.run_seconds - trace.kernel_seconds))),
        ]
        for graph, trace in report.operators.items()
    ]
    summary = table(["milliseconds", "whole run", "kernels", "overhead"], cells)
    about = "By ONNX Runtime's own trace, which slows the run a little. Sorted by what the expert adds."
    listed = [
        [f"{graph}: {item.operator}", str(item.nodes), milliseconds(item.seconds)]
        for graph, trace in report.operators.items()
        for item in trace.operators
    ]
    more = details("All operators", table(["", "nodes", "ms"], listed))
    chart = _pairs("Operators", breakdown.operators(report)) if _compares(report) else Html("")
    yield section("Where the time goes: operators", about, summary, _PAIR_LEGEND, chart, more)


def layers(report: ProfileReport) -> Iterator[Html]:
    """Where the time goes, by layer and by block."""
    if not _compares(report):
        return
    listed = [
        [f"{graph}: {item.layer}", milliseconds(item.seconds)]
        for graph, trace in report.operators.items()
        for item in trace.layers
    ]
    about = "Layers of all blocks together, then block by block."
    kinds, blocks = breakdown.layer_kinds(report), breakdown.blocks(report)
    charts = [_pairs("Layers", kinds)] + ([_pairs("Blocks", blocks)] if len(blocks) > 1 else [])
    more = details("All layers", table(["", "ms"], listed))
    yield section("Where the time goes: layers", about, _PAIR_LEGEND, *charts, more)


def _compares(report: ProfileReport) -> bool:
    return {"named", "dense"} <= report.operators.keys()


def _pairs(title: str, parts: Sequence[breakdown.Part]) -> Html:
    """Two bars for each of the parts that matter most."""
    least = _LEAST_SHARE * sum(part.named for part in parts)
    rows = [
        Bar(
            part.name,
            f"{part.extra * 1e3:+.3f} ms",
            (("named", part.named),),
            under=("dense", part.dense),
        )
        for part in parts
        if max(part.named, part.dense) >= least
    ]
    return bars(title, rows)
