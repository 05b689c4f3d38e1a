"""A profile as one HTML page, made from the report alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.table import instruction_sets, milliseconds, setting_value, signed_bytes
from mingle_edge.pages.curve_charts import Curve, runs
from mingle_edge.pages.page import render
from mingle_edge.pages.row_charts import Bar, bars, spans

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Latency, Memory, Ratio, SweepRow, Trace

_COLORS = {"named": "blue", "routed": "green", "all-experts": "orange", "separate-models": "purple", "reload": "red"}
_LEAST_SHARE = 0.005  # of a run, to be drawn; the table under a chart has all

Rows = list[list[str]]


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
        rows=_rows(report),
        kinds=[(_color(kind), kind) for kind in report.latency],
        slowest=_ms(max((second for found in report.latency.values() for second in found.seconds), default=0.0)),
        budget=f" at a budget of {format_bytes(budget)}" if budget is not None else "",
        most_bytes=format_bytes(max((max(run.resident_bytes, run.bytes_loaded) for run in report.traffic), default=0)),
        longest_stall=_ms(max((run.stall_seconds for run in report.traffic), default=0.0)),
        sweeps={axis: _sweep(axis, report.sweep) for axis in dict.fromkeys(row.axis for row in report.sweep)},
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
        "memory": bars("Memory", [_memory_bar(_moment(name), memory) for name, memory in report.memory.items()]),
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


def _rows(report: ProfileReport) -> dict[str, Rows]:
    """The rows of the tables, by name."""
    rates = {1: report.latency} | {batch.batch: batch.latency for batch in report.batches}
    return {
        "latency": _percentiles("", report.latency),
        "ratios": _ratio_rows("", report.ratios),
        "throughput": [
            ["images per second", *(f"batch {size}" for size in rates)],
            *([kind, *(_rate(size, found.get(kind)) for size, found in rates.items())] for kind in report.latency),
        ],
        "batches": [row for batch in report.batches for row in _percentiles(f"batch {batch.batch}: ", batch.latency)],
        "batch_ratios": [row for batch in report.batches for row in _ratio_rows(f"batch {batch.batch}: ", batch.ratios)],
        "memory": [[_moment(name), *_memory_cells(memory)] for name, memory in report.memory.items()],
        "residence": [[name, *_memory_cells(found.memory)] for name, found in report.residence.items()],
        "switches": [[name, milliseconds(found.open), *_switch(report, name)] for name, found in report.residence.items()],
        "experts": _expert_rows(report),
        "traffic": [
            [
                *(str(i), ", ".join(run.tasks) or "none", milliseconds(run.seconds), str(run.hits), str(run.misses)),
                *(str(run.evictions), *map(format_bytes, (run.bytes_loaded, run.resident_bytes))),
                milliseconds(run.stall_seconds),
            ]
            for i, run in enumerate(report.traffic, 1)
        ],
        "traces": [[graph, *map(milliseconds, _trace_seconds(trace))] for graph, trace in report.operators.items()],
        "operators": [
            [f"{graph}: {item.operator}", str(item.nodes), milliseconds(item.seconds)]
            for graph, trace in report.operators.items()
            for item in trace.operators
        ],
        "layers": [
            [f"{graph}: {item.layer}", milliseconds(item.seconds)]
            for graph, trace in report.operators.items()
            for item in trace.layers
        ],
    }


def _sweep(axis: str, sweep: Iterable[SweepRow]) -> dict[str, Any]:
    """The chart and the tables of one axis."""
    rows = [row for row in sweep if row.axis == axis]
    runs = [(f"{setting_value(row)}, {kind}", row, kind, found) for row in rows for kind, found in row.latency.items()]
    return {
        "chart": _latencies(axis, [(label, kind, found) for label, _, kind, found in runs]),
        "times": [
            [label, milliseconds(found.p50), *(_ratio_cells(row.ratios[kind]) if kind in row.ratios else ["1", "", ""])]
            for label, row, kind, found in runs
        ],
        "memory": [[setting_value(row), *_memory_cells(row.memory)] for row in rows],
    }


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


def _percentiles(before: str, latency: Mapping[str, Latency]) -> Rows:
    return [
        [
            f"{before}{kind}",
            *map(milliseconds, (found.p50, found.p90, found.p95, found.p99)),
            " to ".join(map(milliseconds, found.interval)) if found.interval else "too few runs",
            f"{found.drift:.2f}" if found.drift is not None else "-",
        ]
        for kind, found in latency.items()
    ]


def _rate(size: int, found: Latency | None) -> str:
    """Images per second."""
    return f"{size / found.p50:.1f}" if found and found.p50 > 0 else "-"


def _ratio_rows(before: str, ratios: Mapping[str, Mapping[str, Ratio]]) -> Rows:
    return [[f"{before}{label}", *_ratio_cells(ratio)] for label, _, ratio in _named_ratios(ratios)]


def _ratio_cells(ratio: Ratio) -> list[str]:
    interval = f"{ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}" if ratio.interval else "too few runs"
    return [f"{ratio.ratio:.3f}", f"{ratio.quartiles[0]:.3f} to {ratio.quartiles[1]:.3f}", interval]


def _memory_cells(memory: Memory) -> list[str]:
    return ["?" if size is None else signed_bytes(size) for size in (memory.resident, memory.anonymous, memory.file)]


def _switch(report: ProfileReport, name: str) -> list[str]:
    """A run where the named task changes, one where it stays, and the slowest."""
    switch = report.switches.get("named" if name == "bundle" else name)
    seconds = (switch.switching, switch.staying, switch.slowest) if switch else (None,) * 3
    return [milliseconds(value) if value is not None else "-" for value in seconds]


def _expert_rows(report: ProfileReport) -> Rows:
    if (experts := report.experts) is None:
        return []
    return [
        ["hits", str(experts.hits)],
        ["misses", str(experts.misses)],
        ["evictions", str(experts.evictions)],
        ["loaded", format_bytes(experts.bytes_loaded)],
        ["resident", format_bytes(experts.resident_bytes)],
        ["peak", format_bytes(experts.peak_bytes)],
        ["budget", format_bytes(experts.budget) if experts.budget is not None else "none"],
        ["over the budget", format_bytes(experts.overshoot_bytes)],
        ["stalled", _ms(experts.stall_seconds)],
    ]


def _trace_seconds(trace: Trace) -> tuple[float, float, float]:
    """The whole run, its kernels, and what is left."""
    return trace.run_seconds, trace.kernel_seconds, max(0.0, trace.run_seconds - trace.kernel_seconds)


def _moment(name: str) -> str:
    return name.replace("_", " ")


def _color(kind: str) -> str:
    return _COLORS.get(kind, "grey")


def _ms(seconds: float) -> str:
    return f"{milliseconds(seconds)} ms"
