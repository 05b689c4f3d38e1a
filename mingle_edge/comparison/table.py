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
from mingle_edge.evaluation.protocols import GIVEN
from mingle_edge.files.output_path import write_output
from mingle_edge.pages.labels import shorten

_WIDTH = 100  # characters
FIGURES = ("acc", "acc_std", "bwt", "bwt_std", "fwt", "fwt_std")
SIZES = ("stored_bytes", "active_bytes", "bytes_per_task")
COLUMNS = ("method", "protocol", "corruption", *FIGURES, *SIZES, "latency_ratio", "parameters")
"""The columns of the CSV file; `corruption` is empty on clean images, a figure that was not measured too."""


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


def _row(results: Mapping[str, Any], label: str, protocol: str, corruption: str, figures: Mapping[str, Any]) -> list[Any]:
    method = results["methods"][label]
    measured = [finite(figures.get(name)) for name in FIGURES]
    costs = [*(method.get(name) for name in SIZES), finite(method.get("latency_ratio"))]
    return [label, protocol, corruption, *measured, *costs, json.dumps(method["parameters"], sort_keys=True)]


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
    yield "; ".join(f"{protocol}: {GIVEN[protocol]}" for protocol in results["protocols"]) + "."
    orders = len(results["orders"])
    yield "ACC, BWT, FWT in percent" + (f", mean and deviation of {orders} task orders." if spread else ", one task order.")
    yield "MB stored for all tasks and the backbone; of that a task's own."
    yield f"time: of an image in {timed_in(results)}, over the plain backbone's, which is 1."
    if failed := len(results["failed"]):
        yield f"{count(failed, 'cell')} failed; figures are of the orders that finished."


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
