"""A comparison on a terminal and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mingle_edge.comparison.ranking import accuracy, ordered, timed_in
from mingle_edge.core.wording import count, difference, finite, megabytes, percentage, times
from mingle_edge.evaluation.protocols import GIVEN, HEAD_GIVEN
from mingle_edge.files.output_path import write_output
from mingle_edge.pages.labels import shorten

_WIDTH = 100  # characters
_FURTHER: tuple[tuple[str, str, str, str, Callable[[Any], str]], ...] = (
    ("routes", "identified", "own", "own", percentage),
    ("routes", "identified", "none", "unclaimed", percentage),
    ("growth", "growth", "MB", "stored_bytes_per_task", megabytes),
    ("growth", "growth", "x", "multiply_adds", times),
    ("growth", "growth", "+%", "multiply_adds_per_task", lambda ratio: difference(100 * ratio if ratio is not None else None)),
    ("unmerged", "unmerged", "ACC", "acc", percentage),
    ("unmerged", "unmerged", "none", "unclaimed", percentage),
    ("unmerged", "unmerged", "H", "h_score", percentage),
)
"""Group, part of the results, head, figure and how it is shown, of the second table."""
FIGURES = ("acc", "acc_std", "bwt", "bwt_std", "fwt", "fwt_std")
SIZES = ("stored_bytes", "active_bytes", "bytes_per_task")
GROWTH = ("stored_bytes_per_task", "multiply_adds_ratio", "multiply_adds_per_task")
IDENTIFIED = ("own_route", "unclaimed")
KNOWLEDGE = ("unmerged_acc", "unmerged_acc_std", "h_score", "h_score_std", "unmerged_unclaimed")
MEASURED = (*FIGURES, *SIZES, "latency_ratio", *GROWTH, *IDENTIFIED, *KNOWLEDGE)
COLUMNS = ("method", "protocol", "corruption", *MEASURED, "parameters")
"""The columns of the CSV file; `corruption` is empty on clean images, a figure that was not measured too. What is known of
unmerged tasks stands in rows of P1 alone, and it and the routes on clean images alone."""
ROUTE_COLUMNS = ("method", "task", "routed_to", "percent")
PLAIN_BACKBONE = "plain backbone"
"""Where images go that no task claims."""


def format_table(results: Mapping[str, Any]) -> str:
    """Return the table for a terminal, at most 100 columns wide: a line per method, by accuracy between the references."""
    return "\n".join(_lines(results))


def write_csv(results: Mapping[str, Any], path: Path) -> None:
    """Write one row per method and protocol, and one more for each corruption; figures unrounded. Raises `OutputError`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for label in ordered(results):
        conditions = {"": results["accuracy"].get(label, {})} | results["corrupted"].get(label, {})
        for corruption, protocols in conditions.items():
            for protocol, figures in protocols.items():
                writer.writerow(_row(results, label, protocol, corruption, figures))
    write_output(path, text.getvalue())


def write_routes(results: Mapping[str, Any], path: Path) -> None:
    """Write where each method with a router sends each task's images: a row per method, task and destination. Raises
    `OutputError`.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(ROUTE_COLUMNS)
    names = [task["name"] for task in results["tasks"]]
    for label, table in results["routes"].items():
        for name, shares in zip(names, table, strict=True):
            writer.writerows([label, name, *pair] for pair in zip((*names, PLAIN_BACKBONE), shares, strict=True))
    write_output(path, text.getvalue())


def _row(results: Mapping[str, Any], label: str, protocol: str, corruption: str, figures: Mapping[str, Any]) -> list[Any]:
    method, growth = results["methods"][label], results["growth"].get(label, {})
    routes = {} if corruption else results["identified"].get(label, {})
    known = {} if corruption or protocol != HEAD_GIVEN else results["unmerged"].get(label, {})
    ratios = growth.get("multiply_adds") or [None]
    measured = [
        *map(figures.get, FIGURES),
        *map(method.get, SIZES),
        *(method.get("latency_ratio"), growth.get("stored_bytes_per_task"), ratios[-1], growth.get("multiply_adds_per_task")),
        *map(routes.get, ("own", "unclaimed")),
        *map(known.get, ("acc", "acc_std", "h_score", "h_score_std", "unclaimed")),
    ]
    sizes = dict(zip(MEASURED, measured, strict=True))
    shown = [value if name in SIZES else finite(value) for name, value in sizes.items()]
    return [label, protocol, corruption, *shown, json.dumps(method["parameters"], sort_keys=True)]


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    labels, spread = ordered(results), len(results["orders"]) > 1
    columns = [column for protocol in results["protocols"] for column in _accuracies(results, protocol, labels, spread)]
    columns += _costs(results, labels)
    groups = [column[0] for column in columns]
    widths = [max(map(len, column)) + bool(group) for column, group in zip(columns, groups, strict=True)]
    name = min(_WIDTH - sum(widths) - len(widths), max(map(len, ["method", *labels])))
    for i, label in enumerate(["", "method", *labels]):
        cells = [f"{column[i]:>{width}}" for column, width in zip(columns, widths, strict=True)]
        yield " ".join([f"{shorten(label, name):<{name}}", *cells]).rstrip()
    yield ""
    yield from _further(results, labels)
    yield "; ".join(f"{protocol}: {GIVEN[protocol]}" for protocol in results["protocols"]) + "."
    orders = len(results["orders"])
    yield "ACC, BWT, FWT in percent" + (f", mean and deviation of {orders} task orders." if spread else ", one task order.")
    yield "MB stored for all tasks and the backbone; of that a task's own."
    yield f"time: of an image in {timed_in(results)}, over the plain backbone's, which is 1."
    if failed := len(results["failed"]):
        yield f"{count(failed, 'cell')} failed; figures are of the orders that finished."


def _further(results: Mapping[str, Any], labels: Sequence[str]) -> Iterator[str]:
    """Yield the second table: routes, growth with each task, and what is known of tasks never merged."""
    columns: list[tuple[str, ...]] = []
    for group, source, head, key, show in _FURTHER:
        values = [results[source].get(label, {}).get(key) for label in labels]
        values = [value[-1] if isinstance(value, list) else value for value in values]
        if any(finite(value) is not None for value in values):
            shown_before = any(group == other for other, *_ in columns)
            columns.append(("" if shown_before else group, head, *map(show, values)))
    if not columns:
        return
    widths = [max(map(len, column)) for column in columns]
    name = min(_WIDTH - sum(widths) - len(widths), max(map(len, ["method", *labels])))
    for i, label in enumerate(["", "method", *labels]):
        cells = [f"{column[i]:>{width}}" for column, width in zip(columns, widths, strict=True)]
        yield " ".join([f"{shorten(label, name):<{name}}", *cells]).rstrip()
    yield ""
    yield "own, none: images sent to their own task's expert, and to none, percent."
    yield "MB, +%: added by each task; x: multiply-adds of one image over the plain backbone's."
    if unmerged := results["unmerged_tasks"]:
        yield shorten(f"Never merged: {', '.join(task['name'] for task in unmerged)}.", _WIDTH)
        yield "H: harmonic mean of ACC on those and ACC in P1."


def _accuracies(results: Mapping[str, Any], protocol: str, labels: Sequence[str], spread: bool) -> Iterator[list[str]]:
    """Yield the columns of one protocol: its name over the first, the head, then a cell for each label."""

    def cells(name: str, show: Callable[[Any], str], deviates: bool) -> list[str]:
        shown_cells = []
        for label in labels:
            deviation = accuracy(results, label, protocol, f"{name}_std") if deviates else None
            shown = show(accuracy(results, label, protocol, name))
            shown_cells.append(shown if deviation is None else f"{shown}±{percentage(deviation)}")
        return shown_cells

    yield [protocol, "ACC", *cells("acc", percentage, spread)]
    yield ["", "BWT", *cells("bwt", difference, spread and protocol == results["protocols"][0])]
    if any(accuracy(results, label, protocol, "fwt") is not None for label in labels):
        yield ["", "FWT", *cells("fwt", difference, False)]


def _costs(results: Mapping[str, Any], labels: Sequence[str]) -> Iterator[list[str]]:
    methods = [results["methods"][label] for label in labels]
    yield ["cost", "MB", *(megabytes(method.get("stored_bytes")) for method in methods)]
    yield ["", "task", *(megabytes(method.get("bytes_per_task")) for method in methods)]
    yield ["", "time", *(times(method.get("latency_ratio")) for method in methods)]
