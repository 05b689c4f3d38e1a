"""A profile on a terminal: milliseconds, images per second, megabytes; 80 columns of plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.profile import breakdown

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Memory, Ratio, SweepRow, TrafficRun

_WINDOWS = 6  # of the expert traffic
_MOST_OPERATORS = 10
_NAME = 17  # characters


def table(report: ProfileReport) -> Iterator[str]:
    """The whole report, line by line."""
    for part in (_head, _latency, _batches, _memory, _residence, _traffic, _operators, _sweep, _notes):
        yield from part(report)


def milliseconds(seconds: float) -> str:
    """Three digits or more, as in `0.123`, `12.3`, `1234`."""
    value = seconds * 1e3
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def spread(ratio: Ratio) -> str:
    """The ratio, its quartiles and its interval."""
    interval = f"{ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}" if ratio.interval else "too few runs"
    return f"{f'{ratio.ratio:.2f} x':>9}   {ratio.quartiles[0]:.2f} to {ratio.quartiles[1]:<6.2f}   {interval}"


def instruction_sets(report: ProfileReport) -> str:
    """Those of the processor, as in `AVX2, AVX-512`."""
    sets = report.machine.instruction_sets
    return "unknown" if sets is None else ", ".join(sets) or "none that matter"


def _head(report: ProfileReport) -> Iterator[str]:
    machine, bundle, seconds = report.machine, report.bundle, report.seconds
    cores = f"{machine.usable_cores} cores, onnxruntime {machine.onnxruntime}"
    yield f"{machine.cpu or machine.architecture}, {cores}, {report.settings.threads or 'default'} threads"
    yield f"instruction sets: {instruction_sets(report)}"
    yield f"{bundle.name}: {bundle.scope} scope, {bundle.precision}, {len(bundle.tasks)} tasks, top-k {bundle.top_k}"
    if not report.complete:
        yield "INTERRUPTED: what follows was measured before, the rest is missing"
    names = {
        "import": seconds.import_onnxruntime,
        "open": seconds.open,
        "first run": seconds.first_run,
        "preprocess": seconds.preprocess_per_image,
    }
    yield ", ".join(f"{name} {milliseconds(value)} ms" for name, value in names.items() if value is not None)


def _latency(report: ProfileReport) -> Iterator[str]:
    if report.latency:
        yield f"\n{'latency (ms)':<{_NAME}}     p50      p90      p95      p99   95% interval of p50"
    for kind, found in report.latency.items():
        figures = " ".join(f"{milliseconds(value):>8}" for value in (found.p50, found.p90, found.p95, found.p99))
        interval = " to ".join(map(milliseconds, found.interval)) if found.interval else "too few runs"
        yield f"  {kind:<{_NAME - 2}}{figures}   {interval}"
    yield from _ratios("one image", report.ratios)


def _ratios(title: str, ratios: Mapping[str, Mapping[str, Ratio]]) -> Iterator[str]:
    if ratios:
        yield f"\n{title:<{_NAME + 10}}    ratio   quartiles        95% interval"
    for baseline, kinds in ratios.items():
        for kind, ratio in kinds.items():
            yield f"  {f'{kind} / {baseline}':<{_NAME + 8}}{spread(ratio)}"


def _batches(report: ProfileReport) -> Iterator[str]:
    rates = {1: report.latency} | {batch.batch: batch.latency for batch in report.batches}
    if report.batches:
        yield f"\n{'images/s, batch':<{_NAME}}" + " ".join(f"{size:>8}" for size in rates)
        for kind in report.latency:
            found = (f"{size / rate[kind].p50:8.1f}" if kind in rate else " " * 8 for size, rate in rates.items())
            yield f"  {kind:<{_NAME - 2}}" + " ".join(found)
    for batch in report.batches:
        if dense := batch.ratios.get("dense"):
            yield from _ratios(f"batch {batch.batch}", {"dense": dense})


def _memory(report: ProfileReport) -> Iterator[str]:
    yield f"\n{'memory':<{_NAME}}{_memory_columns()}"
    for moment, memory in report.memory.items():
        yield f"  {moment.replace('_', ' '):<{_NAME - 2}}{_memory_cells(memory)}{_when(moment, report)}"


def _when(moment: str, report: ProfileReport) -> str:
    budget = report.settings.expert_budget
    return {
        "before": "   nothing opened",
        "routed": "   after all images",
        "steady": "   " + ("every task has run" if budget is None else f"at the budget of {format_bytes(budget)}"),
    }.get(moment, "")


def _memory_columns() -> str:
    return f"{'resident':>10} {'anonymous':>10} {'file':>10}"


def _memory_cells(memory: Memory) -> str:
    cells = (memory.resident, memory.anonymous, memory.file)
    return " ".join(f"{'?' if cell is None else signed_bytes(cell):>10}" for cell in cells)


def signed_bytes(size: int) -> str:
    """Of a difference, too."""
    return f"-{format_bytes(-size)}" if size < 0 else format_bytes(size)


def _residence(report: ProfileReport) -> Iterator[str]:
    if report.residence:
        yield f"\n{'to have ready':<{_NAME}}{_memory_columns()}  open ms  switch ms"
    for name, found in report.residence.items():
        switch = report.switches.get("named" if name == "bundle" else name)
        at = f"{milliseconds(switch.switching):>9}" if switch else f"{'-':>9}"
        yield f"  {name:<{_NAME - 2}}{_memory_cells(found.memory)} {milliseconds(found.open):>8}  {at}"


def _traffic(report: ProfileReport) -> Iterator[str]:
    if not report.traffic:
        return
    yield f"\n{'routed runs':<{_NAME}}  hits misses evicted     loaded   resident stalled ms"
    last = len(report.traffic)
    edges = [0, *sorted({1 + (last - 1) * i // _WINDOWS for i in range(_WINDOWS + 1)})]  # the first run apart
    for first, end in pairwise(edges):
        label = f"run {end}" if end - first == 1 else f"runs {first + 1} to {end}"
        yield f"  {label:<{_NAME - 2}}{_window(report.traffic[first:end])}"
    if experts := report.experts:
        peak = f"peak {format_bytes(experts.peak_bytes)}, budget {format_bytes(experts.budget) if experts.budget else 'none'}"
        yield f"  all timed runs: {experts.hits} hits, {experts.misses} misses, {experts.evictions} evictions, {peak}"


def _window(runs: Sequence[TrafficRun]) -> str:
    hits, misses, evictions = (sum(getattr(run, name) for run in runs) for name in ("hits", "misses", "evictions"))
    loaded, stalled = sum(run.bytes_loaded for run in runs), sum(run.stall_seconds for run in runs)
    counts = f"{hits:6} {misses:6} {evictions:7} {format_bytes(loaded):>10} {format_bytes(runs[-1].resident_bytes):>10}"
    return f"{counts} {stalled * 1e3:10.1f}"


def _operators(report: ProfileReport) -> Iterator[str]:
    for graph, trace in report.operators.items():
        if graph == next(iter(report.operators)):
            yield f"\n{'traced run (ms)':<{_NAME}} whole run    kernels   overhead"
        overhead = max(0.0, trace.run_seconds - trace.kernel_seconds)
        cells = (trace.run_seconds, trace.kernel_seconds, overhead)
        yield f"  {graph:<{_NAME - 2}}" + " ".join(f"{milliseconds(cell):>10}" for cell in cells)
    if not {"named", "dense"} <= report.operators.keys():
        return
    for title, parts in (
        ("by operator", breakdown.operators(report)[:_MOST_OPERATORS]),
        ("by layer", breakdown.layer_kinds(report)),
    ):
        yield f"\n{title + ' (ms)':<{_NAME + 10}}{'named':>10} {'dense':>10} {'extra':>10}"
        for part in parts:
            extra = f"{part.extra * 1e3:+.3f}"
            yield f"  {part.name:<{_NAME + 8}}{milliseconds(part.named):>10} {milliseconds(part.dense):>10} {extra:>10}"


def _sweep(report: ProfileReport) -> Iterator[str]:
    for axis, found in groupby(report.sweep, key=lambda row: row.axis):
        rows = list(found)
        kinds = list(rows[0].latency)
        yield f"\n{axis:<{_NAME}}" + "".join(f"{kind + ' ms':>11}    times" for kind in kinds) + "     resident"
        for row in rows:
            yield (
                f"  {setting_value(row):<{_NAME - 2}}"
                + "".join(_sweep_cell(row, kind) for kind in kinds)
                + (f"   {signed_bytes(row.memory.resident):>10}")
            )


def setting_value(row: SweepRow) -> str:
    """A sweep row's value, short enough for a table."""
    if row.axis == "budget" and row.value.isdecimal():
        return format_bytes(int(row.value))
    return row.value if len(row.value) < _NAME - 2 else "..." + row.value[6 - _NAME :]


def _sweep_cell(row: SweepRow, kind: str) -> str:
    ratio = row.ratios.get(kind)
    return f"{milliseconds(row.latency[kind].p50):>11} {f'{ratio.ratio:.2f} x' if ratio else '1':>8}"


def _notes(report: ProfileReport) -> Iterator[str]:
    notes = [*report.notes, *(report.experts.notes if report.experts else ())]
    if notes:
        yield ""
    yield from (f"note: {note}" for note in notes)
