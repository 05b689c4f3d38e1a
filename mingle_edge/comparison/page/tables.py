"""The tables of the page that need calculation: methods, tasks, corruptions, matrices between tasks, times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mingle_edge.comparison.ranking import accuracy, leading, ordered
from mingle_edge.comparison.registry import REFERENCES
from mingle_edge.comparison.table import PLAIN_BACKBONE
from mingle_edge.core.wording import MISSING, difference, digits, finite, megabytes, percentage, times
from mingle_edge.pages.page import plain

_TINTS = 20  # steps of color in the style sheet
_LIGHT = 8  # of them in tables that are read, so that black on color stays legible
_FEW = 10  # columns of a matrix: up to as many, every cell shows its value
_CONFUSED = 3  # pairs told of

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    beside: str = ""
    """in small letters, such as a deviation"""
    best: bool = False
    """of its column"""
    tint: int | None = None
    """how strongly it is colored, 0 to 20; None for no value"""
    told: str = ""
    """shown while the pointer rests on it"""
    own: bool = False
    """on the diagonal"""


Rows = dict[str, list[Cell]]


def columns(results: Results) -> list[tuple[str, str, list[Cell]]]:
    """Return the columns of accuracies and costs: group, head, and a cell for each method as `ordered` has them."""
    methods = [results["methods"][label] for label in ordered(results)]
    ratios = [times(method.get("latency_ratio")) for method in methods]
    return [
        *(column for protocol in results["protocols"] for column in _accuracies(results, protocol)),
        ("cost", "MB stored", [Cell(megabytes(method.get("stored_bytes"))) for method in methods]),
        ("cost", "MB read", [Cell(megabytes(method.get("active_bytes"))) for method in methods]),
        ("cost", "PyTorch time", [Cell(f"{ratio} x" if ratio != MISSING else MISSING) for ratio in ratios]),
    ]


def _accuracies(results: Results, protocol: str) -> Iterator[tuple[str, str, list[Cell]]]:
    labels = ordered(results)
    for name, show in (("acc", percentage), ("bwt", difference), ("fwt", difference)):
        values = [accuracy(results, label, protocol, name) for label in labels]
        if name == "fwt" and not any(value is not None for value in values):
            continue
        cells = []
        for label, value, best in zip(labels, values, _are_best(labels, values), strict=True):
            deviation = accuracy(results, label, protocol, f"{name}_std") if len(results["orders"]) > 1 else None
            cells.append(Cell(show(value), f" ± {percentage(deviation)}" if deviation is not None else "", best))
        yield protocol, name.upper(), cells


def _are_best(labels: Sequence[str], values: Sequence[float | None]) -> list[bool]:
    """Whether each value is the highest, references left out."""
    known = [value for label, value in zip(labels, values, strict=True) if value is not None and label not in REFERENCES]
    return [
        value in known and value == max(known) and label not in REFERENCES for label, value in zip(labels, values, strict=True)
    ]


def by_task(results: Results) -> dict[str, Rows]:
    """Return the final accuracy on every task, by protocol and label."""
    names = [task["name"] for task in results["tasks"]]
    rows = {
        protocol: {
            label: [final[protocol].get(name) for name in names]
            for label in ordered(results)
            if protocol in (final := results["by_task"].get(label, {}))
        }
        for protocol in results["protocols"]
    }
    return {protocol: _tinted(by_label) for protocol, by_label in rows.items() if by_label}


def corruptions(results: Results) -> tuple[list[str], dict[str, Rows]]:
    """Return the columns and, by protocol and label, accuracy on clean images, under each corruption, and their mean."""
    corrupted = results["corrupted"]
    names = list(dict.fromkeys(name for label in ordered(results) for name in corrupted.get(label, {})))
    head = ["clean", *(name.replace("_", " ") for name in names), *(["mean, corrupted"] if len(names) > 1 else [])]
    by_protocol = {}
    for protocol in results["protocols"] if names else ():
        rows = {}
        for label in (label for label in ordered(results) if label in corrupted):
            values = [finite(corrupted[label].get(name, {}).get(protocol, {}).get("acc")) for name in names]
            known = [value for value in values if value is not None]
            mean = sum(known) / len(known) if len(known) == len(names) else None
            rows[label] = [accuracy(results, label, protocol), *values, mean][: len(head)]
        by_protocol[protocol] = _tinted(rows)
    return head, by_protocol


def _tinted(rows: Mapping[str, Sequence[Any]]) -> Rows:
    """Percentages, colored by value, with the best of each column."""
    values = {label: [finite(value) for value in row] for label, row in rows.items()}
    known = [value for value in chain.from_iterable(values.values()) if value is not None]
    ends = min(known, default=0.0), max(known, default=0.0)
    best = zip(*(_are_best(list(values), column) for column in zip(*values.values(), strict=True)), strict=True)
    return {
        label: [
            Cell(percentage(value), best=leads, tint=_tint(value, ends, _LIGHT))
            for value, leads in zip(row, leading, strict=True)
        ]
        for (label, row), leading in zip(values.items(), best, strict=True)
    }


def _tint(value: float | None, ends: tuple[float, float], most: int, power: float = 1.0) -> int | None:
    """How strongly a value is colored between the least and the greatest; a power below 1 shows small ones more."""
    if value is None:
        return None
    low, high = ends
    return round(most * math.pow(min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0), power))


def matrices(results: Results) -> dict[str, Any] | None:
    """Return the accuracy on every task after every step of the first order; None where there is none."""
    protocol, by_label, names = results["protocols"][0], results["matrix"], results["orders"][0]
    tables = {label: by_label[label][protocol] for label in ordered(results) if by_label.get(label, {}).get(protocol)}
    known = [value for cell in chain.from_iterable(chain.from_iterable(tables.values())) if (value := finite(cell)) is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    drawn = {}
    for label, table in tables.items():
        acc, bwt = accuracy(results, label, protocol), accuracy(results, label, protocol, "bwt")
        rows = _cells(table, names, names, "after {row}, on {column}: {value}%", (low, high), 1.0)
        drawn[label] = {"beside": f"ACC {percentage(acc)}, BWT {difference(bwt)}", "rows": rows, "below": ""}
    return _some_open(results, names, drawn, (low, (low + high) / 2, high))


def between_tasks(results: Results, kind: str) -> dict[str, Any] | None:
    """Return where images of each task went, by `routes` or by the labels in `confusion`; None where there is no such table."""
    names = [task["name"] for task in results["tasks"]]
    columns = [*names, PLAIN_BACKBONE] if kind == "routes" else names
    says = "{row} to {column}: {value}%" if kind == "routes" else "{row} as {column}: {value}%"
    drawn = {}
    for label in reversed(ordered(results)):
        if table := results[kind].get(label):
            rows = _cells(table, names, columns, says, (0.0, 100.0), 0.5)
            elsewhere = confused(names, columns, table)
            below = f"Most often elsewhere: {elsewhere}." if elsewhere else ""
            drawn[label] = {"beside": _own_share(table), "rows": rows, "below": below}
    return _some_open(results, columns, drawn, (0.0, 25.0, 100.0)) if drawn else None


def _cells(
    table: Sequence[Sequence[Any]],
    names: Sequence[str],
    columns: Sequence[str],
    says: str,
    ends: tuple[float, float],
    power: float,
) -> Rows:
    """The rows of a matrix; `says` tells a cell, of its row, its column and its value."""
    rows: Rows = {name: [] for name in names}
    for i, (name, given) in enumerate(zip(names, table, strict=True)):
        for j, value in enumerate(map(finite, given)):
            told = says.format(row=name, column=columns[j], value=percentage(value)) if value is not None else ""
            text = f"{value:.0f}" if value is not None and len(columns) <= _FEW else ""
            rows[name].append(Cell(text, tint=_tint(value, ends, _TINTS, power), told=told, own=i == j))
    return rows


def _some_open(results: Results, columns: Sequence[str], drawn: dict[str, Any], marks: tuple[float, ...]) -> dict[str, Any]:
    """Those of leading methods open, the others folded; marks: the values of no color, half of it, and all."""
    first = [label for label in leading(results, 3) if label in drawn] or list(drawn)[:3]
    folded = {label: matrix for label, matrix in drawn.items() if label not in first}
    shown = {label: drawn[label] for label in first}
    return {"names": columns, "marks": [f"{mark:.0f}%" for mark in marks], "open": shown, "folded": folded}


def _own_share(table: Sequence[Sequence[Any]]) -> str:
    own = [value for i, row in enumerate(table) if i < len(row) and (value := finite(row[i])) is not None]
    return f"{sum(own) / len(own):.1f}% to own task" if own else MISSING


def confused(rows: Sequence[str], columns: Sequence[str], table: Sequence[Sequence[Any]]) -> str:
    """Return the largest shares that went elsewhere, in words; nothing where all stayed."""
    away = [
        (value, rows[i], columns[j])
        for i, row in enumerate(table)
        for j, cell in enumerate(row)
        if i != j and (value := finite(cell)) is not None and value >= 0.5
    ]
    most = sorted(away, key=lambda share: -share[0])[:_CONFUSED]
    return "; ".join(f"{row} to {column} {value:.0f}%" for value, row, column in most)


def adding(results: Results) -> list[list[str]]:
    """Return the seconds that the first, second and last task took, the last over the second, and all of them."""
    rows = []
    for label in ordered(results):
        seconds = [finite(second) or 0.0 for second in results["methods"][label].get("seconds_per_task", ())]
        if len(seconds) > 1 and max(seconds) > 0:
            ratio = times(seconds[-1] / seconds[1]) if seconds[1] > 0 else MISSING
            rows.append([label, *map(digits, (seconds[0], seconds[1], seconds[-1])), ratio, digits(sum(seconds))])
    return rows


def trials(results: Results) -> list[list[str]]:
    """Return every trial: label, parameters, accuracy, and whether it was chosen."""
    return [
        [label, plain(trial["parameters"]) or "as published", percentage(trial["acc"]), "chosen" if chosen else ""]
        for label in reversed(ordered(results))
        if (tuning := results["methods"][label]["tuning"])
        for trial in tuning["trials"]
        for chosen in [trial["parameters"] == tuning["chosen"]]
    ]
