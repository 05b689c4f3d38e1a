"""Sections of the page: memory, and what the experts do in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.profile.charts import Bar, bars, lines
from mingle_edge.cli.profile.layout import ms
from mingle_edge.cli.profile.table import milliseconds, signed_bytes
from mingle_edge.pages.cards import details, section, table
from mingle_edge.pages.drawing import legend
from mingle_edge.pages.elements import Html

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport
    from mingle_edge_runtime.profile.report import Memory

MEMORY = ("resident", "anonymous", "file")
"""Columns of `memory_cells`."""
_MEMORY_LEGEND = legend([("anonymous", "anonymous: costs memory"), ("file", "file: given back under pressure")])


def memory(report: ProfileReport) -> Iterator[Html]:
    """The process at each moment."""
    budget = report.settings.expert_budget
    about = "Of the whole process, from before opening until every task has run"
    about += f" at a budget of {format_bytes(budget)}." if budget is not None else "."
    names = {moment: moment.replace("_", " ") for moment in report.memory}
    cells = [[names[moment], *memory_cells(memory)] for moment, memory in report.memory.items()]
    rows = [_memory_bar(names[moment], memory) for moment, memory in report.memory.items()]
    yield section("Memory", about, _MEMORY_LEGEND, bars("Memory", rows), table(["", *MEMORY], cells))


def residence(report: ProfileReport) -> Iterator[Html]:
    """The bundle and its baselines: memory, time to open, a change of task."""
    if not report.residence:
        return
    times = []
    for name, found in report.residence.items():
        switch = report.switches.get("named" if name == "bundle" else name)
        stays = milliseconds(switch.staying) if switch and switch.staying is not None else "-"
        runs = [milliseconds(switch.switching), stays, milliseconds(switch.slowest)] if switch else ["-"] * 3
        times.append([name, milliseconds(found.open), *runs])
    rows = [_memory_bar(name, found.memory) for name, found in report.residence.items()]
    sizes = [[name, *memory_cells(found.memory)] for name, found in report.residence.items()]
    about = "Growth of the process, time to open, and a run where the named task changes, where it stays, and the slowest."
    yield section(
        "To have ready for all tasks",
        about,
        _MEMORY_LEGEND,
        bars("Memory to have ready", rows),
        table(["", *MEMORY], sizes),
        table(["milliseconds", "open", "switch", "stay", "slowest"], times),
    )


def traffic(report: ProfileReport) -> Iterator[Html]:
    """Experts from run to run."""
    if not report.traffic:
        return
    runs = report.traffic
    resident, loaded = [run.resident_bytes for run in runs], [run.bytes_loaded for run in runs]
    top = f"resident and loaded bytes, up to {format_bytes(max(*resident, *loaded))}"
    chart = lines("Bytes of experts", [("anonymous", resident), ("routed", loaded)], top, str(len(runs)))
    stalls = [run.stall_seconds for run in runs]
    waits = lines("Stalls", [("dense", stalls)], f"stalled, up to {ms(max(stalls))}", str(len(runs)))
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
            ["stalled", ms(experts.stall_seconds)],
        ]
        parts.append(table(["until the last timed run", ""], counters))
    yield section(
        "Experts over time", "Routed runs from the first after opening on.", *parts, details("Every run", table(head, cells))
    )


def memory_cells(memory: Memory) -> list[str]:
    """The cells of the columns `MEMORY`."""
    return ["?" if size is None else signed_bytes(size) for size in (memory.resident, memory.anonymous, memory.file)]


def _memory_bar(label: str, memory: Memory) -> Bar:
    split = memory.anonymous is not None and memory.file is not None
    parts = (("anonymous", memory.anonymous or 0), ("file", memory.file or 0)) if split else (("anonymous", memory.resident),)
    return Bar(label, signed_bytes(memory.resident), parts)
