"""A profile as one HTML page: no script, nothing loaded from elsewhere, readable on a phone, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.charts import Bar, Span, bars, legend, lines, spans
from mingle_edge.cli.profile.markup import Html, tag
from mingle_edge.cli.profile.style import STYLE
from mingle_edge.cli.profile.table import milliseconds, setting_value, signed_bytes

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Latency, Memory, Ratio

_MOST_PARTS = 12  # in a chart; the table under it has all
_MEMORY = ("resident", "anonymous", "file")
_INTERVAL = "95% interval"


def page(report: ProfileReport) -> str:
    """The whole document."""
    title = f"Profile of {report.bundle.name}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    parts = (_latency, _ratios, _batches, _memory, _residence, _traffic, _operators, _layers, _sweep, _setting)
    sections = [section for part in parts for section in part(report)]
    body = tag("body", tag("main", _header(title, report), tag("div", *sections, class_="grid")))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _header(title: str, report: ProfileReport) -> Html:
    machine, bundle, seconds = report.machine, report.bundle, report.seconds
    where = f"{machine.cpu or machine.architecture}, {machine.usable_cores} cores, onnxruntime {machine.onnxruntime}"
    what = f"{bundle.scope} scope, {bundle.precision}, {len(bundle.tasks)} tasks, top-k {bundle.top_k}"
    tiles = [("named task", f"{milliseconds(report.latency['named'].p50)} ms")] if "named" in report.latency else []
    if named := report.ratios.get("dense", {}).get("named"):
        tiles.append(("times dense", f"{named.ratio:.2f} x"))
    tiles += [("open", f"{milliseconds(seconds.open)} ms")] if seconds.open is not None else []
    if own := report.residence.get("bundle"):
        tiles.append(("memory it takes", signed_bytes(own.memory.resident)))
    warning = [tag("p", "Interrupted: what is here was measured, the rest is missing.", class_="warning")]
    notes = [*report.notes, *(report.experts.notes if report.experts else ())]
    return tag(
        "header",
        tag("h1", title),
        tag("p", f"{what}. {where}. {report.started}"),
        *([] if report.complete else warning),
        tag("div", *(tag("div", tag("b", value), tag("span", name), class_="tile") for name, value in tiles), class_="tiles"),
        *(tag("p", f"Note: {note}", class_="note") for note in notes),
    )


def _latency(report: ProfileReport) -> Iterator[Html]:
    if not report.latency:
        return
    rows = [Bar(kind, f"{_ms(found.p50)}", ((_class(kind), found.p50),), found.p90) for kind, found in report.latency.items()]
    series = [(_class(kind), found.seconds) for kind, found in report.latency.items()]
    slowest = max(max(found.seconds) for found in report.latency.values())
    order = lines("Every run in order", series, f"every run in order, up to {_ms(slowest)}", str(report.settings.runs))
    cells = [[kind, *_percentiles(found)] for kind, found in report.latency.items()]
    table = _table(["", "p50", "p90", "p95", "p99", _INTERVAL, "drift"], cells, "milliseconds; drift: last quarter / first")
    yield _section("One image", "Bars: medians. Thin lines: to the 90th percentile.", bars("Latency", rows), order, table)


def _percentiles(found: Latency) -> list[str]:
    figures = [milliseconds(value) for value in (found.p50, found.p90, found.p95, found.p99)]
    interval = " to ".join(map(milliseconds, found.interval)) if found.interval else "too few runs"
    return [*figures, interval, f"{found.drift:.2f}" if found.drift is not None else "-"]


def _ratios(report: ProfileReport) -> Iterator[Html]:
    if report.ratios:
        rows = [
            Span(f"{kind} / {baseline}", f"{ratio.ratio:.2f} x", _class(kind), *_ends(ratio))
            for baseline, kinds in report.ratios.items()
            for kind, ratio in kinds.items()
        ]
        cells = [
            [f"{kind} / {baseline}", *_ratio_cells(ratio)]
            for baseline, kinds in report.ratios.items()
            for kind, ratio in kinds.items()
        ]
        about = "Ratios of medians of interleaved runs; under 1 the bundle is faster. Lines: 95% intervals."
        yield _section("Against what one would do otherwise", about, spans("Ratios", rows), _table(_RATIO_HEAD, cells))


_RATIO_HEAD = ["", "ratio", "quartiles", _INTERVAL]


def _ends(ratio: Ratio) -> tuple[float, float, float]:
    low, high = ratio.interval or ratio.quartiles
    return low, ratio.ratio, high


def _ratio_cells(ratio: Ratio) -> list[str]:
    interval = f"{ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}" if ratio.interval else "too few runs"
    return [f"{ratio.ratio:.3f}", f"{ratio.quartiles[0]:.3f} to {ratio.quartiles[1]:.3f}", interval]


def _batches(report: ProfileReport) -> Iterator[Html]:
    if not report.batches:
        return
    rates = {1: report.latency} | {batch.batch: batch.latency for batch in report.batches}
    cells = [
        [kind, *(f"{size / found[kind].p50:.1f}" if kind in found else "-" for size, found in rates.items())]
        for kind in report.latency
    ]
    ratios = [
        [f"batch {batch.batch}: {kind} / {baseline}", *_ratio_cells(ratio)]
        for batch in report.batches
        for baseline, kinds in batch.ratios.items()
        for kind, ratio in kinds.items()
    ]
    latencies = [
        [f"batch {batch.batch}: {kind}", *_percentiles(found)]
        for batch in report.batches
        for kind, found in batch.latency.items()
    ]
    more = _details(
        "Times and ratios of all batches",
        _table(["", "p50", "p90", "p95", "p99", _INTERVAL, "drift"], latencies, "milliseconds of a whole batch"),
        _table(_RATIO_HEAD, ratios) if ratios else Html(""),
    )
    table = _table(["images per second", *(f"batch {size}" for size in rates)], cells)
    yield _section("Throughput", "Images per second at the median.", table, more)


def _memory(report: ProfileReport) -> Iterator[Html]:
    budget = report.settings.expert_budget
    about = "Of the whole process, from before opening until every task has run"
    about += f" at a budget of {format_bytes(budget)}." if budget is not None else "."
    names = {moment: moment.replace("_", " ") for moment in report.memory}
    cells = [[names[moment], *_memory_cells(memory)] for moment, memory in report.memory.items()]
    rows = [_memory_bar(names[moment], memory) for moment, memory in report.memory.items()]
    yield _section("Memory", about, _MEMORY_LEGEND, bars("Memory", rows), _table(["", *_MEMORY], cells))


_MEMORY_LEGEND = legend([("anonymous", "anonymous: costs memory"), ("file", "file: given back under pressure")])


def _memory_bar(label: str, memory: Memory) -> Bar:
    split = memory.anonymous is not None and memory.file is not None
    parts = (("anonymous", memory.anonymous or 0), ("file", memory.file or 0)) if split else (("anonymous", memory.resident),)
    return Bar(label, signed_bytes(memory.resident), parts)


def _memory_cells(memory: Memory) -> list[str]:
    return ["?" if size is None else signed_bytes(size) for size in (memory.resident, memory.anonymous, memory.file)]


def _residence(report: ProfileReport) -> Iterator[Html]:
    if not report.residence:
        return
    cells = []
    for name, found in report.residence.items():
        switch = report.switches.get("named" if name == "bundle" else name)
        stays = milliseconds(switch.staying) if switch and switch.staying is not None else "-"
        times = [milliseconds(switch.switching), stays, milliseconds(switch.slowest)] if switch else ["-"] * 3
        cells.append([name, *_memory_cells(found.memory), milliseconds(found.open), *times])
    rows = [_memory_bar(name, found.memory) for name, found in report.residence.items()]
    head = ["", *_MEMORY, "open ms", "switch ms", "stay ms", "slowest ms"]
    about = "Growth of the process, time to open, and a run where the named task changes, where it stays, and the slowest."
    yield _section(
        "To have ready for all tasks", about, _MEMORY_LEGEND, bars("Memory to have ready", rows), _table(head, cells)
    )


def _traffic(report: ProfileReport) -> Iterator[Html]:
    if not report.traffic:
        return
    runs = report.traffic
    resident, loaded = [run.resident_bytes for run in runs], [run.bytes_loaded for run in runs]
    top = f"resident and loaded bytes, up to {format_bytes(max(*resident, *loaded))}"
    chart = lines("Bytes of experts", [("anonymous", resident), ("routed", loaded)], top, str(len(runs)))
    stalls = [run.stall_seconds for run in runs]
    waits = lines("Stalls", [("dense", stalls)], f"stalled, up to {_ms(max(stalls))}", str(len(runs)))
    cells = [
        [
            str(i),
            ", ".join(run.tasks) or "none",
            milliseconds(run.seconds),
            *(str(count) for count in (run.hits, run.misses, run.evictions)),
            format_bytes(run.bytes_loaded),
            format_bytes(run.resident_bytes),
            milliseconds(run.stall_seconds),
        ]
        for i, run in enumerate(runs, 1)
    ]
    head = ["run", "tasks", "ms", "hits", "misses", "evicted", "loaded", "resident", "stalled ms"]
    parts = [legend([("anonymous", "resident"), ("routed", "loaded in the run")]), chart, waits]
    if experts := report.experts:
        budget = format_bytes(experts.budget) if experts.budget is not None else "none"
        counters = [
            ["hits", str(experts.hits)],
            ["misses", str(experts.misses)],
            ["evictions", str(experts.evictions)],
            ["loaded", format_bytes(experts.bytes_loaded)],
            ["resident", format_bytes(experts.resident_bytes)],
            ["peak", format_bytes(experts.peak_bytes)],
            ["budget", budget],
            ["over the budget", format_bytes(experts.overshoot_bytes)],
            ["stalled", _ms(experts.stall_seconds)],
        ]
        parts.append(_table(["until the last timed run", ""], counters))
    yield _section(
        "Experts over time", "Routed runs from the first after opening on.", *parts, _details("Every run", _table(head, cells))
    )


def _operators(report: ProfileReport) -> Iterator[Html]:
    if not report.operators:
        return
    cells = [
        [
            graph,
            *map(milliseconds, (trace.run_seconds, trace.kernel_seconds, max(0.0, trace.run_seconds - trace.kernel_seconds))),
        ]
        for graph, trace in report.operators.items()
    ]
    summary = _table(["milliseconds", "whole run", "kernels", "overhead"], cells)
    about = "By ONNX Runtime's own trace, which slows the run a little. Sorted by what the expert adds."
    listed = [
        [f"{graph}: {item.operator}", str(item.nodes), milliseconds(item.seconds)]
        for graph, trace in report.operators.items()
        for item in trace.operators
    ]
    more = _details("All operators", _table(["", "nodes", "ms"], listed))
    chart = _pairs("Operators", breakdown.operators(report)) if _compares(report) else Html("")
    yield _section("Where the time goes: operators", about, summary, _PAIR_LEGEND, chart, more)


def _layers(report: ProfileReport) -> Iterator[Html]:
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
    more = _details("All layers", _table(["", "ms"], listed))
    yield _section("Where the time goes: layers", about, _PAIR_LEGEND, *charts, more)


def _compares(report: ProfileReport) -> bool:
    return {"named", "dense"} <= report.operators.keys()


_PAIR_LEGEND = legend([("named", "with an expert"), ("dense", "without")])


def _pairs(title: str, parts: Sequence[breakdown.Part]) -> Html:
    """Two bars for each of the parts that matter most."""
    shown = sorted(parts, key=lambda part: -max(part.named, part.dense))[:_MOST_PARTS]
    rows = []
    for part in (part for part in parts if part in shown):
        rows.append(Bar(part.name, f"{part.extra * 1e3:+.3f} ms", (("named", part.named),)))
        rows.append(Bar("", _ms(part.dense), (("dense", part.dense),)))
    return bars(title, rows)


def _sweep(report: ProfileReport) -> Iterator[Html]:
    axes = dict.fromkeys(row.axis for row in report.sweep)
    for axis in axes:
        rows = [row for row in report.sweep if row.axis == axis]
        drawn = [
            Bar(f"{setting_value(row)}, {kind}", _ms(found.p50), ((_class(kind), found.p50),), found.p90)
            for row in rows
            for kind, found in row.latency.items()
        ]
        cells = [
            [
                f"{setting_value(row)}, {kind}",
                milliseconds(found.p50),
                *(_ratio_cells(row.ratios[kind]) if kind in row.ratios else ["1", "", ""]),
                *_memory_cells(row.memory),
            ]
            for row in rows
            for kind, found in row.latency.items()
        ]
        head = ["", "ms", "times", "quartiles", _INTERVAL, *_MEMORY]
        yield _section(
            f"Sweep: {axis}", "Per image; times the first, interleaved with it.", bars(axis, drawn), _table(head, cells)
        )


def _setting(report: ProfileReport) -> Iterator[Html]:
    seconds = {name: _ms(value) for name, value in vars(report.seconds).items() if value is not None}
    groups = {
        "timed once": seconds,
        "bundle": vars(report.bundle),
        "settings": vars(report.settings),
        "machine": vars(report.machine),
    }
    cells = [
        [f"{group}: {name.replace('_', ' ')}", _shown(value)]
        for group, values in groups.items()
        for name, value in values.items()
    ]
    yield _section("What was measured, and where", "", _table(["", ""], cells))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "-" if value is None else str(value)


def _section(title: str, about: str, *parts: Html) -> Html:
    return tag("section", tag("h2", title), *([tag("p", about, class_="about")] if about else []), *parts)


def _details(title: str, *parts: Html) -> Html:
    return tag("details", tag("summary", title), *parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Html:
    """A table that scrolls by itself where the screen is too narrow for it."""
    first = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    described = [tag("caption", caption)] if caption else []
    return tag("div", tag("table", *described, tag("thead", first), tag("tbody", *body)), class_="scroll")


def _class(kind: str) -> str:
    known = ("named", "routed", "dense", "all-experts", "separate-models", "reload")
    return kind if kind in known else "dense"


def _ms(seconds: float) -> str:
    return f"{milliseconds(seconds)} ms"
