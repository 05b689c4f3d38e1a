"""Rows of the page's tables: methods, tasks, corruptions, matrices between tasks, trials, times, failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mingle_edge.comparison.ranking import INDIVIDUAL, PRETRAINED, accuracy, leading, order_name, ordered
from mingle_edge.comparison.wording import MISSING, difference, digits, finite, megabytes, parameters, percentage, times

REFERENCES = (PRETRAINED, INDIVIDUAL)
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


@dataclass(frozen=True)
class Column:
    """A column of the main table."""

    group: str
    head: str
    cells: Sequence[Cell]
    """one per method"""
    starts: bool = False
    """the first of its group"""


@dataclass(frozen=True)
class Matrix:
    """Percentages of tasks by tasks, of one method."""

    label: str
    beside: str
    """a figure next to the label"""
    rows: Mapping[str, Sequence[Cell]]
    below: str = ""


@dataclass(frozen=True)
class Matrices:
    """The matrices of one kind on one scale of color."""

    names: Sequence[str]
    """of the columns"""
    ends: tuple[str, str, str]
    """the values of no color, half of it and all"""
    open: Sequence[Matrix]
    folded: Sequence[Matrix]


def columns(results: Results) -> list[Column]:
    """Return accuracies and costs of the methods, as `ordered` has them."""
    labels = ordered(results)
    methods = [results["methods"][label] for label in labels]
    ratios = [times(method.get("latency_ratio")) for method in methods]
    return [
        *(column for protocol in results["protocols"] for column in _accuracies(results, protocol, labels)),
        Column("cost", "MB stored", [Cell(megabytes(method.get("stored_bytes"))) for method in methods], starts=True),
        Column("cost", "MB read", [Cell(megabytes(method.get("active_bytes"))) for method in methods]),
        Column("cost", "time", [Cell(f"{ratio} x" if ratio != MISSING else MISSING) for ratio in ratios]),
    ]


def _accuracies(results: Results, protocol: str, labels: Sequence[str]) -> Iterator[Column]:
    shows: dict[str, Callable[[Any], str]] = {"acc": percentage, "bwt": difference, "fwt": difference}
    for name, show in shows.items():
        found = [accuracy(results, label, protocol, name) for label in labels]
        if name == "fwt" and not any(value is not None for value in found):
            continue
        best = _best(labels, found)
        cells = []
        for label, value in zip(labels, found, strict=True):
            deviation = accuracy(results, label, protocol, f"{name}_std") if len(results["orders"]) > 1 else None
            beside = f" ± {percentage(deviation)}" if deviation is not None else ""
            cells.append(Cell(show(value), beside, value is not None and value == best and label not in REFERENCES))
        yield Column(protocol, name.upper(), cells, starts=name == "acc")


def _best(labels: Sequence[str], values: Sequence[float | None]) -> float | None:
    """The highest value, references left out."""
    found = zip(labels, values, strict=True)
    return max((value for label, value in found if value is not None and label not in REFERENCES), default=None)


def by_task(results: Results) -> dict[str, dict[str, list[Cell]]]:
    """Return the final accuracy on every task, by protocol and label."""
    names = [task["name"] for task in results["tasks"]]
    rows = {
        protocol: {
            label: [found[protocol].get(name) for name in names]
            for label in ordered(results)
            if protocol in (found := results["by_task"].get(label, {}))
        }
        for protocol in results["protocols"]
    }
    return {protocol: _tinted(found) for protocol, found in rows.items() if found}


def corruptions(results: Results) -> tuple[list[str], dict[str, dict[str, list[Cell]]]]:
    """Return the columns and, by protocol and label, accuracy on clean images, under each corruption, and their mean."""
    found = results["corrupted"]
    names = list(dict.fromkeys(name for label in ordered(results) for name in found.get(label, {})))
    head = ["clean", *(name.replace("_", " ") for name in names), *(["mean, corrupted"] if len(names) > 1 else [])]
    by_protocol = {}
    for protocol in results["protocols"] if names else ():
        rows = {}
        for label in (label for label in ordered(results) if label in found):
            values = [finite(found[label].get(name, {}).get(protocol, {}).get("acc")) for name in names]
            known = [value for value in values if value is not None]
            mean = sum(known) / len(known) if len(known) == len(names) else None
            rows[label] = [accuracy(results, label, protocol), *values, mean][: len(head)]
        by_protocol[protocol] = _tinted(rows)
    return head, by_protocol


def _tinted(rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Cell]]:
    """Percentages, colored by value, with the best of each column."""
    values = {label: [finite(value) for value in row] for label, row in rows.items()}
    known = [value for value in chain.from_iterable(values.values()) if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    best = [_best(list(values), column) for column in zip(*values.values(), strict=True)]
    return {
        label: [
            Cell(
                percentage(value),
                best=value is not None and value == most and label not in REFERENCES,
                tint=round(_LIGHT * _share(value, low, high)) if value is not None else None,
            )
            for value, most in zip(row, best, strict=True)
        ]
        for label, row in values.items()
    }


def matrices(results: Results) -> Matrices | None:
    """Return the accuracy on every task after every step of the first order; None where there is none."""
    protocol, found = results["protocols"][0], results["matrix"]
    tables = {label: found[label][protocol] for label in ordered(results) if found.get(label, {}).get(protocol)}
    known = [value for cell in chain.from_iterable(chain.from_iterable(tables.values())) if (value := finite(cell)) is not None]
    if not known:
        return None
    names = results["orders"][0]
    scale = _Scale(min(known), max(known), 1.0)
    drawn = {}
    for label, table in tables.items():
        acc, bwt = accuracy(results, label, protocol), accuracy(results, label, protocol, "bwt")
        rows = _cells(table, names, names, scale, "after {row}, on {column}: {value}%")
        drawn[label] = Matrix(label, f"ACC {percentage(acc)}, BWT {difference(bwt)}", rows)
    return _some_open(results, names, scale, drawn)


def between_tasks(results: Results, kind: str) -> Matrices | None:
    """Return where images of each task went, by `routes` or by the labels in `confusion`; None where there is no such table."""
    names = [task["name"] for task in results["tasks"]]
    columns = [*names, "plain backbone"] if kind == "routes" else names
    says = "{row} to {column}: {value}%" if kind == "routes" else "{row} as {column}: {value}%"
    scale = _Scale(0.0, 100.0, 0.5)
    drawn = {
        label: Matrix(label, _own_share(table), _cells(table, names, columns, scale, says), _confused(names, columns, table))
        for label in reversed(ordered(results))
        if (table := results[kind].get(label))
    }
    return _some_open(results, columns, scale, drawn) if drawn else None


@dataclass(frozen=True)
class _Scale:
    """How strongly a percentage is colored."""

    low: float
    high: float
    power: float
    """below 1 small values show more"""

    def tint(self, value: float) -> int:
        return round(_TINTS * math.pow(_share(value, self.low, self.high), self.power))

    def value(self, strength: float) -> str:
        """What is colored that strongly, 0 to 1."""
        return f"{self.low + (self.high - self.low) * math.pow(strength, 1 / self.power):.0f}%"


def _cells(
    table: Sequence[Sequence[Any]], names: Sequence[str], columns: Sequence[str], scale: _Scale, says: str
) -> dict[str, list[Cell]]:
    """The rows of a matrix; `says` tells a cell, of its row, its column and its value."""

    def cell(i: int, j: int, given: Any) -> Cell:
        if (value := finite(given)) is None:
            return Cell("")
        told = says.format(row=names[i], column=columns[j], value=percentage(value))
        return Cell(f"{value:.0f}" if len(columns) <= _FEW else "", tint=scale.tint(value), told=told, own=i == j)

    lines = enumerate(zip(names, table, strict=True))
    return {name: [cell(i, j, value) for j, value in enumerate(row)] for i, (name, row) in lines}


def _some_open(results: Results, columns: Sequence[str], scale: _Scale, drawn: Mapping[str, Matrix]) -> Matrices:
    """Those of leading methods open, the others folded."""
    first = [label for label in leading(results, 3) if label in drawn] or list(drawn)[:3]
    folded = [matrix for label, matrix in drawn.items() if label not in first]
    ends = (scale.value(0.0), scale.value(0.5), scale.value(1.0))
    return Matrices(columns, ends, [drawn[label] for label in first], folded)


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)


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


def trials(results: Results) -> list[list[str]]:
    """Return what was tried on the tuning images: method, parameters, accuracy, and which was chosen."""
    return [
        [label, parameters(trial["parameters"]) or "as published", percentage(trial["acc"]), taken]
        for label in reversed(ordered(results))
        if (found := results["methods"][label]["tuning"])
        for trial in found["trials"]
        for taken in ["chosen" if trial["parameters"] == found["chosen"] else ""]
    ]


def adding(results: Results) -> list[list[str]]:
    """Return the seconds that the first, second and last task took, the last over the second, and all of them."""
    rows = []
    for label in ordered(results):
        seconds = [finite(second) or 0.0 for second in results["methods"][label].get("seconds_per_task", ())]
        if len(seconds) > 1 and max(seconds) > 0:
            ratio = times(seconds[-1] / seconds[1]) if seconds[1] > 0 else MISSING
            rows.append([label, *map(digits, (seconds[0], seconds[1], seconds[-1])), ratio, digits(sum(seconds))])
    return rows


def failures(results: Results) -> list[list[str]]:
    """Return the cells that did not finish."""
    return [
        [cell["method"], order_name(results, cell["order"]), cell["corruption"] or "clean images", cell["error"]]
        for cell in results["failed"]
    ]


def descriptions(results: Results) -> list[list[str]]:
    """Return what each method is: its idea and source, and its parameters."""
    rows = []
    for label in ordered(results):
        found = results["methods"][label]
        known = f"{found['method']}: {found['summary']}" if found["method"] != label else found["summary"]
        rows.append([label, known, parameters(found["parameters"]) or "none"])
    return rows
