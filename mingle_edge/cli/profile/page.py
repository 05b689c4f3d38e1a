"""A profile as one HTML page, made from the report alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.tables import (
    compares_experts,
    moment,
    ms,
    notes,
    sections,
    setting_value,
    size,
    summary,
    timed_once,
)
from mingle_edge.pages.curve_charts import Curve, runs
from mingle_edge.pages.page import record, render
from mingle_edge.pages.row_charts import Bar, bars, spans

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Latency, Memory, Ratio

_COLORS = {"named": "blue", "routed": "green", "all-experts": "orange", "separate-models": "purple", "reload": "red"}
_KINDS = {
    "named": "the task is told",
    "routed": "the bundle finds the task",
    "dense": "one model without experts",
    "all-experts": "every expert on every image",
    "separate-models": "a model per task, all open",
    "reload": "one model, opened anew at each change of task",
}
_MEMORY = (("blue", "anonymous: costs memory"), ("green", "file: given back under pressure"))
_PAIR = (("blue", "with an expert"), ("grey", "without"))
_RECORDED = ("bundle", "settings", "machine")
_LEAST_SHARE = 0.005  # of a run, to be drawn; the table under a chart has all


class Tile(NamedTuple):
    """A headline."""

    name: str
    value: str
    beside: str = ""
    """what it is compared with"""


class Drawing(NamedTuple):
    """A chart of a section."""

    section: str
    chart: Markup
    heading: str = ""
    legend: Sequence[tuple[str, str]] = ()


def page(report: ProfileReport) -> str:
    """Return the whole document."""
    drawings = list(_drawings(report))
    return render(
        "profile.html",
        title=f"Profile of {report.bundle.name}",
        complete=report.complete,
        summary=summary(report),
        busy=report.busy,
        tiles=list(_tiles(report)),
        notes=notes(report),
        sections=[
            (section, [drawing for drawing in drawings if drawing.section == section.title]) for section in sections(report)
        ],
        record=record({"timed once": timed_once(report)} | {name: vars(getattr(report, name)) for name in _RECORDED}),
    )


def _tiles(report: ProfileReport) -> Iterator[Tile]:
    """Yield the headlines that were measured: latencies of both kinds first, beside the tower without experts."""
    for kind in ("named", "routed"):
        if times := report.latency.get(kind):
            ratio, dense = report.ratios.get("dense", {}).get(kind), report.latency.get("dense")
            beside = f"{ratio.ratio:.2f} x dense ({ms(dense.p50)} ms)" if ratio and dense else ""
            yield Tile(f"one image, {kind}: {_KINDS[kind]}", f"{ms(times.p50)} ms", beside)
    if own := report.residence.get("bundle"):
        others = [
            (name, report.residence[name].memory.resident) for name in ("dense", "separate-models") if name in report.residence
        ]
        yield Tile("memory it takes", size(own.memory.resident), ", ".join(f"{name} {size(bytes_)}" for name, bytes_ in others))
    if report.seconds.open is not None:
        yield Tile("to open", f"{ms(report.seconds.open)} ms")


def _drawings(report: ProfileReport) -> Iterator[Drawing]:
    """Yield the charts of what was measured."""
    if report.latency:
        legend = [(_color(kind), f"{kind}: {_KINDS[kind]}" if kind in _KINDS else kind) for kind in report.latency]
        yield Drawing("One image", _latencies("Latency", report.latency), "Medians, and lines to the 90th percentile", legend)
        series = {kind: [1e3 * second for second in times.seconds] for kind, times in report.latency.items()}
        curves = [Curve(kind, _color(kind), values) for kind, values in series.items()]
        slowest = max((value for values in series.values() for value in values), default=0.0) / 1e3
        kinds = [(_color(kind), kind) for kind in series]
        heading = f"Every run in order, up to {ms(slowest)} ms"
        yield Drawing("One image", runs("Every run in order", curves, "ms"), heading, kinds)
    if report.ratios:
        rows = [
            (f"{kind} / {baseline}", _change(report, baseline, kind, ratio), _color(kind), (low, ratio.ratio, high))
            for baseline, kinds_of in report.ratios.items()
            for kind, ratio in kinds_of.items()
            for low, high in [ratio.interval or ratio.quartiles]
        ]
        sure = all(ratio.interval for kinds_of in report.ratios.values() for ratio in kinds_of.values())
        heading = f"Ratios with their {'95% intervals' if sure else 'quartiles, as there are too few runs for intervals'}"
        yield Drawing("Against what one would do otherwise", spans("Ratios", rows), heading)
    process = [_memory_bar(moment(name), memory) for name, memory in report.memory.items()]
    yield Drawing("Memory", bars("Memory", process), legend=_MEMORY)
    residence = [_memory_bar(name, ready.memory) for name, ready in report.residence.items()]
    yield Drawing("To have ready for all tasks", bars("Memory to have ready", residence), legend=_MEMORY)
    if report.traffic:
        resident = Curve("resident", "blue", [run.resident_bytes / 1e6 for run in report.traffic])
        loaded = Curve("loaded", "green", [run.bytes_loaded / 1e6 for run in report.traffic])
        most = size(max(max(run.resident_bytes, run.bytes_loaded) for run in report.traffic))
        heading, legend = f"Resident and loaded bytes, up to {most}", [("blue", "resident"), ("green", "loaded in the run")]
        yield Drawing("Experts over time", runs("Bytes of experts", [resident, loaded], "MB"), heading, legend)
        stalls = [1e3 * run.stall_seconds for run in report.traffic]
        if max(stalls) > 0:
            chart = runs("Stalls", [Curve("stalled", "grey", stalls)], "ms")
            yield Drawing("Experts over time", chart, f"Stalled, up to {ms(max(stalls) / 1e3)} ms")
    if compares_experts(report):
        yield Drawing("Where the time goes: operators", _pairs("Operators", breakdown.operators(report)), legend=_PAIR)
        yield Drawing("Where the time goes: layers", _pairs("Layers", breakdown.layer_kinds(report)), legend=_PAIR)
        if len(blocks := breakdown.blocks(report)) > 1:
            yield Drawing("Where the time goes: layers", _pairs("Blocks", blocks), "Block by block")
    for axis in dict.fromkeys(row.axis for row in report.sweep):
        swept = [(row, kind) for row in report.sweep if row.axis == axis for kind in row.latency]
        latencies = {f"{setting_value(row)}, {kind}": row.latency[kind] for row, kind in swept}
        ratios = {f"{setting_value(row)}, {kind}": row.ratios[kind] for row, kind in swept if kind in row.ratios}
        yield Drawing(f"Sweep: {axis}", _latencies(axis, latencies, ratios))


def _change(report: ProfileReport, baseline: str, kind: str, ratio: Ratio) -> str:
    """The medians behind a ratio, and the ratio."""
    before, after = (report.latency[name].p50 if name in report.latency else None for name in (baseline, kind))
    return f"{ms(before)} → {ms(after)} ms ({ratio.ratio:.2f} x)"


def _latencies(title: str, latencies: Mapping[str, Latency], ratios: Mapping[str, Ratio] = MappingProxyType({})) -> Markup:
    """Bars of medians, by a label that ends in the kind, with lines to the 90th percentile, and ratios to the first."""
    rows = []
    for label, times in latencies.items():
        beside = f" ({ratios[label].ratio:.2f} x)" if label in ratios else ""
        rows.append((label, f"{ms(times.p50)} ms{beside}", [(_color(label.split(", ")[-1]), times.p50)]))
    return bars(title, rows, reaches=[times.p90 for times in latencies.values()])


def _memory_bar(label: str, memory: Memory) -> Bar:
    split = memory.anonymous is not None and memory.file is not None
    parts = [("blue", memory.anonymous or 0), ("green", memory.file or 0)] if split else [("blue", memory.resident)]
    return label, size(memory.resident), parts


def _pairs(title: str, parts: breakdown.Parts) -> Markup:
    """Two bars, with an expert and without, for each of the parts that matter most."""
    least = _LEAST_SHARE * sum(named for named, _ in parts.values())
    rows = [
        (name, f"{ms(dense)} → {ms(named)} ms ({1e3 * (named - dense):+.3f})", [("blue", named), ("grey", dense)])
        for name, (named, dense) in parts.items()
        if max(named, dense) >= least
    ]
    return bars(title, rows, apart=True)


def _color(kind: str) -> str:
    return _COLORS.get(kind, "grey")
