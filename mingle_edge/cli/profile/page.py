"""A profile as one HTML page, made from the report alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.table import instruction_sets, milliseconds, setting_value, signed_bytes
from mingle_edge.pages.curve_charts import Curve, runs
from mingle_edge.pages.page import render
from mingle_edge.pages.row_charts import Bar, bars, spans

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Latency, Memory, Ratio, SweepRow

_COLORS = {"named": "blue", "routed": "green", "all-experts": "orange", "separate-models": "purple", "reload": "red"}
_LEAST_SHARE = 0.005  # of a run, to be drawn; the table under a chart has all


def page(report: ProfileReport) -> str:
    """Return the whole document."""
    budget = report.settings.expert_budget
    return render(
        "profile.html",
        title=f"Profile of {report.bundle.name}",
        report=report,
        summary=_summary(report),
        tiles=_tiles(report),
        notes=[*report.notes, *(report.experts.notes if report.experts else ())],
        charts=_charts(report),
        ms=lambda seconds: "-" if seconds is None else milliseconds(seconds),
        size=lambda size: "?" if size is None else signed_bytes(size),
        ratio_cells=_ratio_cells,
        setting_value=setting_value,
        throughput=_throughput(report),
        sweeps={
            axis: [row for row in report.sweep if row.axis == axis] for axis in dict.fromkeys(row.axis for row in report.sweep)
        },
        sweep_chart=_sweep_chart,
        kinds=[(_color(kind), kind) for kind in report.latency],
        slowest=_ms(max((second for found in report.latency.values() for second in found.seconds), default=0.0)),
        budget=f" at a budget of {format_bytes(budget)}" if budget is not None else "",
        most_bytes=format_bytes(max((max(run.resident_bytes, run.bytes_loaded) for run in report.traffic), default=0)),
        longest_stall=_ms(max((run.stall_seconds for run in report.traffic), default=0.0)),
        groups={
            "timed once": {name: _ms(value) for name, value in vars(report.seconds).items() if value is not None},
            "bundle": vars(report.bundle),
            "settings": vars(report.settings),
            "machine": vars(report.machine),
        },
    )


def _summary(report: ProfileReport) -> str:
    machine, bundle = report.machine, report.bundle
    processor = f"{machine.cpu or machine.architecture} ({instruction_sets(report)})"
    where = f"{processor}, {machine.usable_cores} cores, onnxruntime {machine.onnxruntime}"
    what = f"{bundle.scope} scope, {bundle.precision}, {len(bundle.tasks)} tasks, top-k {bundle.top_k}"
    return f"{what}. {where}. {report.started.replace('T', ' ').replace('+00:00', ' UTC')}"


def _tiles(report: ProfileReport) -> dict[str, str]:
    tiles = {}
    if "named" in report.latency:
        tiles["named task"] = _ms(report.latency["named"].p50)
    if named := report.ratios.get("dense", {}).get("named"):
        tiles["times dense"] = f"{named.ratio:.2f} x"
    if report.seconds.open is not None:
        tiles["open"] = _ms(report.seconds.open)
    if own := report.residence.get("bundle"):
        tiles["memory it takes"] = signed_bytes(own.memory.resident)
    return tiles


def _charts(report: ProfileReport) -> dict[str, Markup]:
    """The charts of what was measured, by name."""
    charts = {
        "memory": bars("Memory", [_memory_bar(name.replace("_", " "), memory) for name, memory in report.memory.items()]),
        "residence": bars(
            "Memory to have ready", [_memory_bar(name, found.memory) for name, found in report.residence.items()]
        ),
    }
    if report.latency:
        charts["latency"] = _latencies("Latency", [(kind, kind, found) for kind, found in report.latency.items()])
        series = {kind: [1e3 * second for second in found.seconds] for kind, found in report.latency.items()}
        charts["order"] = runs("Every run in order", [Curve(kind, _color(kind), found) for kind, found in series.items()], "ms")
    if report.ratios:
        charts["ratios"] = spans(
            "Ratios",
            [
                (label, f"{ratio.ratio:.2f} x", _color(kind), _ends(ratio))
                for label, kind, ratio in _named_ratios(report.ratios)
            ],
        )
    if report.traffic:
        resident = Curve("resident", "blue", [run.resident_bytes / 1e6 for run in report.traffic])
        loaded = Curve("loaded", "green", [run.bytes_loaded / 1e6 for run in report.traffic])
        charts["traffic"] = runs("Bytes of experts", [resident, loaded], "MB")
        charts["stalls"] = runs("Stalls", [Curve("stalled", "grey", [1e3 * run.stall_seconds for run in report.traffic])], "ms")
    if {"named", "dense"} <= report.operators.keys():
        blocks = breakdown.blocks(report)
        charts["operators"] = _pairs("Operators", breakdown.operators(report))
        charts["layers"] = _pairs("Layers", breakdown.layer_kinds(report))
        charts["blocks"] = _pairs("Blocks", blocks if len(blocks) > 1 else [])
    return charts


def _sweep_chart(axis: str, rows: Sequence[SweepRow]) -> Markup:
    found = [(f"{setting_value(row)}, {kind}", kind, found) for row in rows for kind, found in row.latency.items()]
    return _latencies(axis, found)


def _throughput(report: ProfileReport) -> list[list[str]]:
    """Images per second, by kind and batch size, under the head of the table."""
    rates = {1: report.latency} | {batch.batch: batch.latency for batch in report.batches}
    head = ["images per second", *(f"batch {size}" for size in rates)]
    return [head, *([kind, *(_rate(size, found.get(kind)) for size, found in rates.items())] for kind in report.latency)]


def _rate(size: int, found: Latency | None) -> str:
    return f"{size / found.p50:.1f}" if found and found.p50 > 0 else "-"


def _latencies(title: str, found: Sequence[tuple[str, str, Latency]]) -> Markup:
    """Bars of medians, of a label, a kind and times each, and lines to the 90th percentile."""
    rows = [(label, _ms(latency.p50), [(_color(kind), latency.p50)]) for label, kind, latency in found]
    return bars(title, rows, reaches=[latency.p90 for *_, latency in found])


def _memory_bar(label: str, memory: Memory) -> Bar:
    split = memory.anonymous is not None and memory.file is not None
    parts = [("blue", memory.anonymous or 0), ("green", memory.file or 0)] if split else [("blue", memory.resident)]
    return label, signed_bytes(memory.resident), parts


def _pairs(title: str, parts: Sequence[breakdown.Part]) -> Markup:
    """Two bars, with an expert and without, for each of the parts that matter most."""
    least = _LEAST_SHARE * sum(part.named for part in parts)
    shown = [part for part in parts if max(part.named, part.dense) >= least]
    rows = [(part.name, f"{part.extra * 1e3:+.3f} ms", [("blue", part.named), ("grey", part.dense)]) for part in shown]
    return bars(title, rows, apart=True)


def _named_ratios(ratios: Mapping[str, Mapping[str, Ratio]]) -> list[tuple[str, str, Ratio]]:
    return [(f"{kind} / {baseline}", kind, ratio) for baseline, kinds in ratios.items() for kind, ratio in kinds.items()]


def _ends(ratio: Ratio) -> tuple[float, float, float]:
    low, high = ratio.interval or ratio.quartiles
    return low, ratio.ratio, high


def _ratio_cells(ratio: Ratio) -> list[str]:
    interval = f"{ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}" if ratio.interval else "too few runs"
    return [f"{ratio.ratio:.3f}", f"{ratio.quartiles[0]:.3f} to {ratio.quartiles[1]:.3f}", interval]


def _color(kind: str) -> str:
    return _COLORS.get(kind, "grey")


def _ms(seconds: float) -> str:
    return f"{milliseconds(seconds)} ms"
