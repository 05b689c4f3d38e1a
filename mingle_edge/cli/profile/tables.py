"""A profile as tables, which a terminal prints and a page shows beside its charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.profile import breakdown
from mingle_edge.core.wording import MISSING, digits

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Latency, Memory, Ratio, SweepRow, TrafficRun

_PERCENTILES = ("p50", "p90", "p95", "p99", "95% interval", "drift")
_RATIO = ("ratio", "quartiles", "95% interval")
_MEMORY = ("resident", "anonymous", "file")
_TRAFFIC = ("hits", "misses", "evicted", "loaded", "resident", "stalled ms")
_MOMENTS = {
    "imported": "ONNX Runtime imported",
    "before": "ONNX Runtime started",
    "opened": "bundle opened",
    "routed": "all images routed",
    "steady": "every task run",
}
_WINDOWS = 6  # of the expert traffic
_MOST_OPERATORS = 10
_VALUE = 15  # characters of a swept value


@dataclass(frozen=True)
class Table:
    """Rows of text under a head; the first cell of each is its name."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    fold: str = ""
    """title that a page folds it under; a terminal leaves it out"""
    drawn: bool = False
    """in a chart, so that a page leaves it out"""


@dataclass(frozen=True)
class Section:
    """Tables under a title."""

    title: str
    about: str
    tables: Sequence[Table]


def sections(report: ProfileReport) -> Iterator[Section]:
    """Yield all that was measured, in the order in which it is shown."""
    if report.latency:
        about = "Milliseconds; drift: last quarter of the runs / first."
        yield Section("One image", about, [_latencies({"": report.latency})])
    if report.ratios:
        about = "Ratios of medians of interleaved runs; under 1 the bundle is faster."
        yield Section("Against what one would do otherwise", about, [_ratios({"": report.ratios})])
    if report.batches:
        yield Section("Throughput", "Images per second at the median.", list(_batches(report)))
    budget = report.settings.expert_budget
    at = f" at a budget of {format_bytes(budget)}" if budget is not None else ""
    about = f"Of the whole process, from before opening until every task has run{at}."
    yield Section("Memory", about, [_memory({moment(name): memory for name, memory in report.memory.items()})])
    if report.residence:
        about = "Growth of the process, time to open, and a run where the named task changes, where it stays, and the slowest."
        yield Section("To have ready for all tasks", f"{about} {_start(report)}", list(_residence(report)))
    if report.traffic:
        yield Section("Experts over time", "Routed runs from the first after opening on.", list(_traffic(report)))
    if report.operators:
        about = "By ONNX Runtime's own trace, which slows the run a little. Sorted by what the expert adds."
        yield Section("Where the time goes: operators", about, list(_operators(report)))
    if compares_experts(report):
        rows = [
            [f"{graph}: {item.layer}", ms(item.seconds)] for graph, trace in report.operators.items() for item in trace.layers
        ]
        tables = [_parts(breakdown.layer_kinds(report)), Table(["", "ms"], rows, fold="All layers")]
        yield Section("Where the time goes: layers", "Layers of all blocks together.", tables)
    for axis, swept in groupby(report.sweep, key=lambda row: row.axis):
        about = "Per image; times the first, interleaved with it. Memory: growth of the process."
        yield Section(f"Sweep: {axis}", about, list(_sweep(list(swept))))


def compares_experts(report: ProfileReport) -> bool:
    """Return whether a run with an expert and one without were traced."""
    return {"named", "dense"} <= report.operators.keys()


def ms(seconds: float | None) -> str:
    """Write milliseconds, three digits or more, as in `0.123`, `12.3`, `1234`; `-` for what was not measured."""
    return MISSING if seconds is None else digits(seconds * 1e3)


def size(count: int | None) -> str:
    """Write bytes, or a difference of them; `?` for what the system does not tell."""
    if count is None:
        return "?"
    return f"-{format_bytes(-count)}" if count < 0 else format_bytes(count)


def moment(name: str) -> str:
    """Write the moment at which memory was measured."""
    return _MOMENTS.get(name, name.replace("_", " "))


def setting_value(row: SweepRow) -> str:
    """Write a sweep row's value, short enough for a table."""
    if row.axis == "budget" and row.value.isdecimal():
        return format_bytes(int(row.value))
    return row.value if len(row.value) < _VALUE else "..." + row.value[4 - _VALUE :]


def summary(report: ProfileReport) -> str:
    """Write what was measured, where and when."""
    machine, bundle = report.machine, report.bundle
    sets = "unknown" if machine.instruction_sets is None else ", ".join(machine.instruction_sets) or "none that matter"
    where = f"{machine.cpu or machine.architecture} ({sets}), {machine.usable_cores} cores"
    how = f"onnxruntime {machine.onnxruntime}, {report.settings.threads or 'default'} threads"
    what = f"{bundle.scope} scope, {bundle.precision}, {len(bundle.tasks)} tasks, top-k {bundle.top_k}"
    return f"{what}. {where}, {how}. {report.started.replace('T', ' ').replace('+00:00', ' UTC')}"


def timed_once(report: ProfileReport) -> dict[str, str]:
    """Return what was timed once, by name."""
    return {name.replace("_", " "): f"{ms(value)} ms" for name, value in vars(report.seconds).items() if value is not None}


def notes(report: ProfileReport) -> list[str]:
    """Return the notes of the report and of its experts."""
    return [*report.notes, *(report.experts.notes if report.experts else ())]


def _start(report: ProfileReport) -> str:
    """Say whose memory ONNX Runtime's own start is: the first session of a process pays for it, whatever it runs."""
    imported, before = (report.memory.get(name) for name in ("imported", "before"))
    if imported is None or before is None:
        return "The bundle's includes ONNX Runtime's own start, as the report is of an earlier version; profile again."
    return f"ONNX Runtime's own start, {size(max(before.since(imported).resident, 0))}, comes before and is in none of them."


def _latencies(by_prefix: Mapping[str, Mapping[str, Latency]], fold: str = "") -> Table:
    rows = []
    for prefix, latency in by_prefix.items():
        for kind, times in latency.items():
            interval = " to ".join(map(ms, times.interval)) if times.interval else "too few runs"
            drift = "-" if times.drift is None else f"{times.drift:.2f}"
            rows.append([prefix + kind, *map(ms, (times.p50, times.p90, times.p95, times.p99)), interval, drift])
    return Table(["ms", *_PERCENTILES], rows, fold)


def _ratios(by_prefix: Mapping[str, Mapping[str, Mapping[str, Ratio]]], fold: str = "", drawn: bool = False) -> Table:
    rows = [
        [f"{prefix}{kind} / {baseline}", *_ratio_cells(ratio)]
        for prefix, ratios in by_prefix.items()
        for baseline, kinds in ratios.items()
        for kind, ratio in kinds.items()
    ]
    return Table(["", *_RATIO], rows, fold, drawn)


def _ratio_cells(ratio: Ratio) -> list[str]:
    interval = f"{ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}" if ratio.interval else "too few runs"
    return [f"{ratio.ratio:.3f}", f"{ratio.quartiles[0]:.3f} to {ratio.quartiles[1]:.3f}", interval]


def _batches(report: ProfileReport) -> Iterator[Table]:
    rates = {1: report.latency} | {batch.batch: batch.latency for batch in report.batches}
    head = ["images per second", *(f"batch {size}" for size in rates)]
    yield Table(head, [[kind, *(_rate(size, by_kind.get(kind)) for size, by_kind in rates.items())] for kind in report.latency])
    batches = {f"batch {batch.batch}: ": batch for batch in report.batches}
    yield _ratios({name: {"dense": batch.ratios.get("dense", {})} for name, batch in batches.items()}, drawn=True)
    yield _latencies({name: batch.latency for name, batch in batches.items()}, "Times of all batches")
    yield _ratios({name: batch.ratios for name, batch in batches.items()}, "Ratios of all batches")


def _rate(images: int, latency: Latency | None) -> str:
    return f"{images / latency.p50:.1f}" if latency and latency.p50 > 0 else "-"


def _memory(by_name: Mapping[str, Memory]) -> Table:
    return Table(["", *_MEMORY], [[name, *map(size, vars(memory).values())] for name, memory in by_name.items()])


def _residence(report: ProfileReport) -> Iterator[Table]:
    yield _memory({name: ready.memory for name, ready in report.residence.items()})
    rows = []
    for name, ready in report.residence.items():
        switch = report.switches.get("named" if name == "bundle" else name)
        rows.append([name, ms(ready.open), *(map(ms, vars(switch).values()) if switch else ["-"] * 3)])
    yield Table(["ms", "open", "switch", "stay", "slowest"], rows)


def _traffic(report: ProfileReport) -> Iterator[Table]:
    runs, last = report.traffic, len(report.traffic)
    edges = [0, *sorted({1 + (last - 1) * i // _WINDOWS for i in range(_WINDOWS + 1)})]  # the first run apart
    windows = [
        [f"run {end}" if end - first == 1 else f"runs {first + 1} to {end}", *_window(runs[first:end])]
        for first, end in pairwise(edges)
    ]
    yield Table(["", *_TRAFFIC], windows, drawn=True)
    if experts := report.experts:
        counts = [[name, str(getattr(experts, name))] for name in ("hits", "misses", "evictions")]
        sizes = {
            "loaded": experts.bytes_loaded,
            "resident": experts.resident_bytes,
            "peak": experts.peak_bytes,
            "over the budget": experts.overshoot_bytes,
        }
        rows = [*counts, *([name, size(count)] for name, count in sizes.items())]
        rows.append(["budget", "none" if experts.budget is None else size(experts.budget)])
        yield Table(["until the last timed run", ""], [*rows, ["stalled", f"{ms(experts.stall_seconds)} ms"]])
    rows = [[str(i), ", ".join(run.tasks) or "none", ms(run.seconds), *_window([run])] for i, run in enumerate(runs, 1)]
    yield Table(["run", "tasks", "ms", *_TRAFFIC], rows, fold="Every run")


def _window(runs: Sequence[TrafficRun]) -> list[str]:
    """Return the sums of some runs, and what was resident after them."""
    hits, misses, evictions = (str(sum(getattr(run, name) for run in runs)) for name in ("hits", "misses", "evictions"))
    loaded, stalled = sum(run.bytes_loaded for run in runs), sum(run.stall_seconds for run in runs)
    return [hits, misses, evictions, size(loaded), size(runs[-1].resident_bytes), ms(stalled)]


def _operators(report: ProfileReport) -> Iterator[Table]:
    rows = []
    for graph, trace in report.operators.items():
        overhead = max(0.0, trace.run_seconds - trace.kernel_seconds)
        rows.append([graph, *map(ms, (trace.run_seconds, trace.kernel_seconds, overhead))])
    yield Table(["ms", "whole run", "kernels", "overhead"], rows)
    if compares_experts(report):
        yield _parts(dict([*breakdown.operators(report).items()][:_MOST_OPERATORS]))
    rows = [
        [f"{graph}: {item.operator}", str(item.nodes), ms(item.seconds)]
        for graph, trace in report.operators.items()
        for item in trace.operators
    ]
    yield Table(["", "nodes", "ms"], rows, fold="All operators")


def _parts(parts: breakdown.Parts) -> Table:
    rows = [[name, ms(named), ms(dense), f"{1e3 * (named - dense):+.3f}"] for name, (named, dense) in parts.items()]
    return Table(["ms", "named", "dense", "extra"], rows, drawn=True)


def _sweep(swept: Sequence[SweepRow]) -> Iterator[Table]:
    rows = [
        [
            f"{setting_value(row)}, {kind}",
            ms(times.p50),
            *(_ratio_cells(row.ratios[kind]) if kind in row.ratios else ["1", "", ""]),
        ]
        for row in swept
        for kind, times in row.latency.items()
    ]
    yield Table(["", "ms", "times", *_RATIO[1:]], rows)
    yield _memory({setting_value(row): row.memory for row in swept})
