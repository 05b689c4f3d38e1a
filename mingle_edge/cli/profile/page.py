"""A profile as one HTML page: no script, nothing loaded from elsewhere, readable on a phone, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mingle_edge.cli.profile.latency_sections import batches, latency, ratios, sweep
from mingle_edge.cli.profile.layout import ms
from mingle_edge.cli.profile.memory_sections import memory, residence, traffic
from mingle_edge.cli.profile.style import STYLE
from mingle_edge.cli.profile.table import instruction_sets, milliseconds, signed_bytes
from mingle_edge.cli.profile.trace_sections import layers, operators
from mingle_edge.pages import style
from mingle_edge.pages.cards import document, section, table
from mingle_edge.pages.elements import Html, tag

if TYPE_CHECKING:
    from mingle_edge_runtime.profile import ProfileReport


def page(report: ProfileReport) -> str:
    """The whole document."""
    title = f"Profile of {report.bundle.name}"
    parts = (latency, ratios, batches, memory, residence, traffic, operators, layers, sweep, _setting)
    sections = [found for part in parts for found in part(report)]
    return document(title, style.STYLE + STYLE, _header(title, report), tag("div", *sections, class_="grid"))


def _header(title: str, report: ProfileReport) -> Html:
    machine, bundle, seconds = report.machine, report.bundle, report.seconds
    processor = f"{machine.cpu or machine.architecture} ({instruction_sets(report)})"
    where = f"{processor}, {machine.usable_cores} cores, onnxruntime {machine.onnxruntime}"
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
        tag("p", f"{what}. {where}. {report.started.replace('T', ' ').replace('+00:00', ' UTC')}"),
        *([] if report.complete else warning),
        tag("div", *(tag("div", tag("b", value), tag("span", name), class_="tile") for name, value in tiles), class_="tiles"),
        *(tag("p", f"Note: {note}", class_="note") for note in notes),
    )


def _setting(report: ProfileReport) -> Iterator[Html]:
    seconds = {name: ms(value) for name, value in vars(report.seconds).items() if value is not None}
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
    yield section("What was measured, and where", "", tag("div", table(["", ""], cells), class_="facts"))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else "-" if value is None else str(value)
