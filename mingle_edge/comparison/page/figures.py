"""Sections of the page that are figures: accuracy against forgetting and costs, steps, matrices, routes, trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from mingle_edge.comparison.page.axis import Axis, linear, sizes
from mingle_edge.comparison.page.charts import Curve, Point, curves, scatter, trial_rows
from mingle_edge.comparison.page.heat_map import Scale, heat_map, scale_bar
from mingle_edge.comparison.ranking import INDIVIDUAL, PRETRAINED, accuracy, is_one_model, leading, ordered
from mingle_edge.comparison.wording import MISSING, difference, finite, parameters, percentage
from mingle_edge.pages.cards import details, section, table
from mingle_edge.pages.drawing import legend
from mingle_edge.pages.elements import Html, tag

_KINDS = legend([("single", "one model"), ("experts", "with experts"), ("reference", "references")])
_COLOURS = ("first", "second", "third", "fourth")  # classes, of the curves of leading methods
_CONFUSED = 3  # pairs told of
_SHARES = Scale(0.0, 100.0, power=0.5)


def scatters(results: Mapping[str, Any]) -> Iterator[Html]:
    """Accuracy against what it costs: forgetting, bytes, time."""
    protocol, *others = results["protocols"]
    methods = results["methods"]
    parts = []
    if (forgetting := _forgetting(results, protocol)) is not None:
        more = [
            details(f"The same in {other}", found) for other in others if (found := _forgetting(results, other)) is not None
        ]
        about = "BWT is the change on earlier tasks since their own merge. Up and to the right is better."
        parts.append(section("Accuracy and forgetting", about, _KINDS, forgetting, *more))
    for title, name, unit, told in (
        ("Accuracy and storage", "stored_bytes", 1e6, "MB stored on the device"),
        ("Accuracy and bytes read", "active_bytes", 1e6, "MB read for one image"),
        ("Accuracy and time", "latency_ratio", 1.0, "time, times the plain backbone's"),
    ):
        costs = {label: value / unit for label in methods if (value := finite(methods[label].get(name))) is not None}
        if (found := _against(results, protocol, costs, sizes(told, list(costs.values())))) is not None:
            parts.append(section(title, "Up and to the left is better.", _KINDS, found))
    if parts:
        yield tag("div", *parts, class_="pairs")


def _forgetting(results: Mapping[str, Any], protocol: str) -> Html | None:
    if len(results["tasks"]) < 2:
        return None
    methods = results["methods"]
    changes = {label: value for label in methods if (value := accuracy(results, label, protocol, "bwt")) is not None}
    return _against(results, protocol, changes, linear("BWT, points", list(changes.values())))


def _against(results: Mapping[str, Any], protocol: str, costs: Mapping[str, float], across: Axis) -> Html | None:
    """Accuracy against one value per label; None where there is nothing to compare."""
    found = {label: (cost, acc) for label, cost in costs.items() if (acc := accuracy(results, label, protocol)) is not None}
    if len(found) < 2:
        return None
    up = linear(f"ACC in {protocol}, %", [acc for _, acc in found.values()], most=100.0, ticks=8)
    points = [
        Point(label, _kind(results, label), cost, acc, f"{label}: ACC {percentage(acc)}%, {cost:.4g} {across.title}")
        for label, (cost, acc) in found.items()
    ]
    return scatter(f"{up.title} against {across.title}", points, across, up)


def _kind(results: Mapping[str, Any], label: str) -> str:
    if label in (PRETRAINED, INDIVIDUAL):
        return "reference"
    return "single" if is_one_model(results, label) else "experts"


def steps(results: Mapping[str, Any]) -> Iterator[Html]:
    """Accuracy after each step: the leading methods in one chart, then every method by itself."""
    found, protocols = results["steps"], results["protocols"]
    first = protocols[0]
    series = {
        label: {protocol: _curve(protocol, protocol.lower(), step) for protocol, step in found[label].items()}
        for label in ordered(results)
        if label in found
    }
    main = {label: by_protocol[first] for label, by_protocol in series.items() if first in by_protocol}
    if len(results["tasks"]) < 2 or not main:
        return
    shown = [label for label in leading(results) if label in main]
    kinds = dict(zip(shown, _COLOURS, strict=False)) | dict.fromkeys((PRETRAINED, INDIVIDUAL), "reference")
    quiet = [Curve("", "quiet", curve.mean, ()) for label, curve in main.items() if label not in kinds]
    lines = quiet + [replace(main[label], name=label, kind=kind) for label, kind in kinds.items() if label in main]
    key = legend([*zip(_COLOURS, shown, strict=False), ("reference", "references, dashed"), ("quiet", "other methods")])
    common = _levels([curve for by_protocol in series.values() for curve in by_protocol.values()], 4)
    order = {protocol: i for i, protocol in enumerate(reversed(protocols))}  # the first protocol is drawn last, so on top
    small = [
        tag(
            "figure",
            tag("figcaption", tag("b", label), f" {percentage(accuracy(results, label, first))}"),
            curves(label, sorted(by_protocol.values(), key=lambda curve: order[curve.name]), common, 96, named=False),
        )
        for label, by_protocol in series.items()
    ]
    about = f"Mean accuracy on the tasks merged so far, percent, {first}. Bands: one deviation over orders."
    yield section(
        "After each step",
        about,
        key,
        curves("Accuracy after each step", lines, _levels(lines, 8), 300, named=True),
        tag("h3", "Every method, all protocols"),
        legend([(protocol.lower(), protocol) for protocol in protocols]),
        tag("div", *small, class_="panels"),
    )


def _levels(lines: Sequence[Curve], ticks: int) -> Axis:
    """An axis over all curves and their bands."""
    ends = []
    for line in lines:
        for i, mean in enumerate(line.mean):
            if mean is not None:
                deviation = (line.deviation[i] if i < len(line.deviation) else None) or 0.0
                ends += [max(mean - deviation, 0.0), min(mean + deviation, 100.0)]
    return linear("%", ends, most=100.0, ticks=ticks)


def _curve(name: str, kind: str, step: Mapping[str, Any]) -> Curve:
    return Curve(name, kind, [finite(value) for value in step["mean"]], [finite(value) for value in step["std"]])


def matrices(results: Mapping[str, Any]) -> Iterator[Html]:
    """Accuracy on every task after every step of the first order."""
    protocol, found = results["protocols"][0], results["matrix"]
    tables = {label: found[label][protocol] for label in ordered(results) if found.get(label, {}).get(protocol)}
    scale = _scale(chain.from_iterable(chain.from_iterable(tables.values())))
    if not tables or scale is None:
        return
    names = results["orders"][0]
    says = "after {row}, on {column}:"
    drawn = {
        label: _figure(label, _acc(results, label, protocol), heat_map(label, names, names, values, scale, says))
        for label, values in tables.items()
    }
    about = (
        f"{protocol}, first order. Rows: after a task was merged; columns: accuracy on each task, in the order of the rows. "
    )
    about += "Framed: right after a task's own merge. A column that pales downwards is forgotten."
    yield section("Accuracy matrix", about, scale_bar(scale), *_some_open(results, drawn))


def routes(results: Mapping[str, Any]) -> Iterator[Html]:
    """Where a router sends the images of each task."""
    names = [task["name"] for task in results["tasks"]]
    drawn = {}
    for label in reversed(ordered(results)):
        if table := results["routes"].get(label):
            says = "{row} to {column}:"
            picture = heat_map(label, names, [*names, "plain backbone"], table, _SHARES, says)
            drawn[label] = _figure(label, _own_share(table), picture, _confused(names, [*names, "the plain backbone"], table))
    about = (
        "Rows: images of a task; columns: the task whose expert answered, in the order of the rows, last the plain backbone. "
    )
    about += "Final state, mean over orders."
    if drawn:
        yield section("Where a router sends images", about, scale_bar(_SHARES), *_some_open(results, drawn))


def confusions(results: Mapping[str, Any]) -> Iterator[Html]:
    """Between tasks, when the labels of all tasks compete."""
    names = [task["name"] for task in results["tasks"]]
    drawn = {}
    for label in reversed(ordered(results)):
        if table := results["confusion"].get(label):
            picture = heat_map(label, names, names, table, _SHARES, "{row} as {column}:")
            drawn[label] = _figure(label, _own_share(table), picture, _confused(names, names, table))
    about = "P3. Rows: images of a task; columns: the task of the label that won, in the order of the rows."
    if drawn:
        yield section("Confusion between tasks", about, scale_bar(_SHARES), *_some_open(results, drawn))


def _some_open(results: Mapping[str, Any], drawn: Mapping[str, Html]) -> Iterator[Html]:
    """The figures of leading methods, then those of the others for who asks for them."""
    first = [label for label in leading(results, 3) if label in drawn] or list(drawn)[:3]
    yield tag("div", *(drawn[label] for label in first), class_="figures")
    others = [figure for label, figure in drawn.items() if label not in first]
    if others:
        yield details(f"The other {len(others)}", tag("div", *others, class_="figures"))


def _figure(label: str, beside: str, picture: Html, below: str = "") -> Html:
    told = [tag("p", below, class_="about")] if below else []
    return tag("figure", tag("figcaption", tag("b", label), f" {beside}"), picture, *told)


def _acc(results: Mapping[str, Any], label: str, protocol: str) -> str:
    shown = f"ACC {percentage(accuracy(results, label, protocol))}"
    return f"{shown}, BWT {difference(accuracy(results, label, protocol, 'bwt'))}"


def _own_share(table: Sequence[Sequence[Any]]) -> str:
    own = [value for i, row in enumerate(table) if i < len(row) and (value := finite(row[i])) is not None]
    return f"{sum(own) / len(own):.1f}% to own task" if own else MISSING


def _confused(rows: Sequence[str], columns: Sequence[str], table: Sequence[Sequence[Any]]) -> str:
    """The largest shares that went elsewhere, in words."""
    away = [
        (value, rows[i], columns[j])
        for i, row in enumerate(table)
        for j, cell in enumerate(row)
        if i != j and (value := finite(cell)) is not None and value >= 0.5
    ]
    most = sorted(away, key=lambda found: -found[0])[:_CONFUSED]
    told = "; ".join(f"{row} to {column} {value:.0f}%" for value, row, column in most)
    return f"Most often elsewhere: {told}." if told else ""


def _scale(values: Iterator[Any]) -> Scale | None:
    known = [value for cell in values if (value := finite(cell)) is not None]
    return Scale(min(known), max(known)) if known else None


def tuning(results: Mapping[str, Any]) -> Iterator[Html]:
    """What was tried on the tuning images, and what was taken."""
    rows, cells = [], []
    for label in reversed(ordered(results)):
        if not (found := results["methods"][label]["tuning"]):
            continue
        trials = [trial for trial in found["trials"] if finite(trial["acc"]) is not None]
        chosen = next((i for i, trial in enumerate(trials) if trial["parameters"] == found["chosen"]), None)
        told = [(trial["acc"], f"{parameters(trial['parameters'])}: {percentage(trial['acc'])}%") for trial in trials]
        rows.append((label, told, chosen))
        for trial in found["trials"]:
            taken = "chosen" if trial["parameters"] == found["chosen"] else ""
            cells.append([label, parameters(trial["parameters"]) or "as published", percentage(trial["acc"]), taken])
    values = [acc for _, trials, _ in rows for acc, _ in trials]
    if values:
        across = linear("ACC", values, most=100.0, ticks=8)
        about = "ACC in percent on the tuning images, which are not test images. Filled: chosen."
        every = details("Every trial", table(["", "parameters", "ACC", ""], cells))
        yield section("Tuning", about, trial_rows("ACC of the trials", rows, across), every)
