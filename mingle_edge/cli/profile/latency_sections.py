"""Sections of the page: times and their ratios."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mingle_edge.cli.profile.charts import Bar, Span, bars, lines, spans
from mingle_edge.cli.profile.layout import kind_class, ms
from mingle_edge.cli.profile.memory_sections import MEMORY, memory_cells
from mingle_edge.cli.profile.table import milliseconds, setting_value
from mingle_edge.pages.cards import details, section, table
from mingle_edge.pages.elements import Html

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Latency, Ratio

_INTERVAL = "95% interval"
_LATENCY_HEAD = ["", "p50", "p90", "p95", "p99", _INTERVAL, "drift"]
_RATIO_HEAD = ["", "ratio", "quartiles", _INTERVAL]


def latency(report: ProfileReport) -> Iterator[Html]:
    """Times of single images, by kind."""
    if not report.latency:
        return
    rows = [
        Bar(kind, f"{ms(found.p50)}", ((kind_class(kind), found.p50),), found.p90) for kind, found in report.latency.items()
    ]
    series = [(kind_class(kind), found.seconds) for kind, found in report.latency.items()]
    slowest = max(max(found.seconds) for found in report.latency.values())
    order = lines("Every run in order", series, f"every run in order, up to {ms(slowest)}", str(report.settings.runs))
    cells = [[kind, *_percentiles(found)] for kind, found in report.latency.items()]
    figures = table(_LATENCY_HEAD, cells, "milliseconds; drift: last quarter / first")
    yield section("One image", "Bars: medians. Thin lines: to the 90th percentile.", bars("Latency", rows), order, figures)


def ratios(report: ProfileReport) -> Iterator[Html]:
    """The bundle against its baselines."""
    if report.ratios:
        rows = [
            Span(f"{kind} / {baseline}", f"{ratio.ratio:.2f} x", kind_class(kind), *_ends(ratio))
            for baseline, kinds in report.ratios.items()
            for kind, ratio in kinds.items()
        ]
        cells = [
            [f"{kind} / {baseline}", *_ratio_cells(ratio)]
            for baseline, kinds in report.ratios.items()
            for kind, ratio in kinds.items()
        ]
        about = "Ratios of medians of interleaved runs; under 1 the bundle is faster. Lines: 95% intervals."
        yield section("Against what one would do otherwise", about, spans("Ratios", rows), table(_RATIO_HEAD, cells))


def batches(report: ProfileReport) -> Iterator[Html]:
    """Throughput, with times and ratios of every batch size."""
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
    more = details(
        "Times and ratios of all batches",
        table(_LATENCY_HEAD, latencies, "milliseconds of a whole batch"),
        table(_RATIO_HEAD, ratios) if ratios else Html(""),
    )
    speeds = table(["images per second", *(f"batch {size}" for size in rates)], cells)
    yield section("Throughput", "Images per second at the median.", speeds, more)


def sweep(report: ProfileReport) -> Iterator[Html]:
    """A section for each axis that was swept."""
    axes = dict.fromkeys(row.axis for row in report.sweep)
    for axis in axes:
        rows = [row for row in report.sweep if row.axis == axis]
        drawn = [
            Bar(f"{setting_value(row)}, {kind}", ms(found.p50), ((kind_class(kind), found.p50),), found.p90)
            for row in rows
            for kind, found in row.latency.items()
        ]
        cells = [
            [
                f"{setting_value(row)}, {kind}",
                milliseconds(found.p50),
                *(_ratio_cells(row.ratios[kind]) if kind in row.ratios else ["1", "", ""]),
            ]
            for row in rows
            for kind, found in row.latency.items()
        ]
        yield section(
            f"Sweep: {axis}",
            "Per image; times the first, interleaved with it. Memory: growth of the process.",
            bars(axis, drawn),
            table(["", "ms", "times", "quartiles", _INTERVAL], cells),
            table(["", *MEMORY], [[setting_value(row), *memory_cells(row.memory)] for row in rows]),
        )


def _percentiles(found: Latency) -> list[str]:
    figures = [milliseconds(value) for value in (found.p50, found.p90, found.p95, found.p99)]
    interval = " to ".join(map(milliseconds, found.interval)) if found.interval else "too few runs"
    return [*figures, interval, f"{found.drift:.2f}" if found.drift is not None else "-"]


def _ends(ratio: Ratio) -> tuple[float, float, float]:
    low, high = ratio.interval or ratio.quartiles
    return low, ratio.ratio, high


def _ratio_cells(ratio: Ratio) -> list[str]:
    interval = f"{ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}" if ratio.interval else "too few runs"
    return [f"{ratio.ratio:.3f}", f"{ratio.quartiles[0]:.3f} to {ratio.quartiles[1]:.3f}", interval]
