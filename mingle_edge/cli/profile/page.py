"""A profile as one HTML page, made from the report alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.tables import compares_experts, ms, notes, sections, setting_value, size, summary, timed_once
from mingle_edge.pages.curve_charts import Curve, runs
from mingle_edge.pages.page import record, render
from mingle_edge.pages.row_charts import Bar, bars, spans

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Latency, Memory

_COLORS = {"named": "blue", "routed": "green", "all-experts": "orange", "separate-models": "purple", "reload": "red"}
_MEMORY = (("blue", "anonymous: costs memory"), ("green", "file: given back under pressure"))
_PAIR = (("blue", "with an expert"), ("grey", "without"))
_RECORDED = ("bundle", "settings", "machine")
_LEAST_SHARE = 0.005  # of a run, to be drawn; the table under a chart has all


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
        tiles=_tiles(report),
        notes=notes(report),
        sections=[
            (section, [drawing for drawing in drawings if drawing.section == section.title]) for section in sections(report)
        ],
        record=record({"timed once": timed_once(report)} | {name: vars(getattr(report, name)) for name in _RECORDED}),
    )


def _tiles(report: ProfileReport) -> dict[str, str]:
    tiles = {}
    if "named" in report.latency:
        tiles["named task"] = f"{ms(report.latency['named'].p50)} ms"
    if named := report.ratios.get("dense", {}).get("named"):
        tiles["times dense"] = f"{named.ratio:.2f} x"
    if report.seconds.open is not None:
        tiles["open"] = f"{ms(report.seconds.open)} ms"
    if own := report.residence.get("bundle"):
        tiles["memory it takes"] = size(own.memory.resident)
    return tiles


def _drawings(report: ProfileReport) -> Iterator[Drawing]:
    """Yield the charts of what was measured."""
    if report.latency:
        yield Drawing("One image", _latencies("Latency", report.latency), "Medians, and lines to the 90th percentile")
        series = {kind: [1e3 * second for second in times.seconds] for kind, times in report.latency.items()}
        curves = [Curve(kind, _color(kind), values) for kind, values in series.items()]
        slowest = max((value for values in series.values() for value in values), default=0.0) / 1e3
        kinds = [(_color(kind), kind) for kind in series]
        heading = f"Every run in order, up to {ms(slowest)} ms"
        yield Drawing("One image", runs("Every run in order", curves, "ms"), heading, kinds)
    if report.ratios:
        rows = [
            (f"{kind} / {baseline}", f"{ratio.ratio:.2f} x", _color(kind), (low, ratio.ratio, high))
            for baseline, kinds_of in report.ratios.items()
            for kind, ratio in kinds_of.items()
            for low, high in [ratio.interval or ratio.quartiles]
        ]
        yield Drawing("Against what one would do otherwise", spans("Ratios", rows), "Ratios with their 95% intervals")
    memory = [_memory_bar(name.replace("_", " "), moment) for name, moment in report.memory.items()]
    yield Drawing("Memory", bars("Memory", memory), legend=_MEMORY)
    residence = [_memory_bar(name, ready.memory) for name, ready in report.residence.items()]
    yield Drawing("To have ready for all tasks", bars("Memory to have ready", residence), legend=_MEMORY)
    if report.traffic:
        resident = Curve("resident", "blue", [run.resident_bytes / 1e6 for run in report.traffic])
        loaded = Curve("loaded", "green", [run.bytes_loaded / 1e6 for run in report.traffic])
        most = size(max(max(run.resident_bytes, run.bytes_loaded) for run in report.traffic))
        heading, legend = f"Resident and loaded bytes, up to {most}", [("blue", "resident"), ("green", "loaded in the run")]
        yield Drawing("Experts over time", runs("Bytes of experts", [resident, loaded], "MB"), heading, legend)
        stalls = [1e3 * run.stall_seconds for run in report.traffic]
        chart = runs("Stalls", [Curve("stalled", "grey", stalls)], "ms")
        yield Drawing("Experts over time", chart, f"Stalled, up to {ms(max(stalls) / 1e3)} ms")
    if compares_experts(report):
        yield Drawing("Where the time goes: operators", _pairs("Operators", breakdown.operators(report)), legend=_PAIR)
        yield Drawing("Where the time goes: layers", _pairs("Layers", breakdown.layer_kinds(report)), legend=_PAIR)
        if len(blocks := breakdown.blocks(report)) > 1:
            yield Drawing("Where the time goes: layers", _pairs("Blocks", blocks), "Block by block")
    for axis in dict.fromkeys(row.axis for row in report.sweep):
        latencies = {
            f"{setting_value(row)}, {kind}": times
            for row in report.sweep
            if row.axis == axis
            for kind, times in row.latency.items()
        }
        yield Drawing(f"Sweep: {axis}", _latencies(axis, latencies))


def _latencies(title: str, latencies: Mapping[str, Latency]) -> Markup:
    """Bars of medians, by a label that ends in the kind, and lines to the 90th percentile."""
    rows = [(label, f"{ms(times.p50)} ms", [(_color(label.split(", ")[-1]), times.p50)]) for label, times in latencies.items()]
    return bars(title, rows, reaches=[times.p90 for times in latencies.values()])


def _memory_bar(label: str, memory: Memory) -> Bar:
    split = memory.anonymous is not None and memory.file is not None
    parts = [("blue", memory.anonymous or 0), ("green", memory.file or 0)] if split else [("blue", memory.resident)]
    return label, size(memory.resident), parts


def _pairs(title: str, parts: breakdown.Parts) -> Markup:
    """Two bars, with an expert and without, for each of the parts that matter most."""
    least = _LEAST_SHARE * sum(named for named, _ in parts.values())
    rows = [
        (name, f"{1e3 * (named - dense):+.3f} ms", [("blue", named), ("grey", dense)])
        for name, (named, dense) in parts.items()
        if max(named, dense) >= least
    ]
    return bars(title, rows, apart=True)


def _color(kind: str) -> str:
    return _COLORS.get(kind, "grey")
