"""From cells to figures: mean and deviation over orders of ACC, BWT and FWT, by method, protocol and corruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from mingle_edge.comparison.cell import Cell, CellResult
from mingle_edge.comparison.ranking import PRETRAINED
from mingle_edge.evaluation.metrics import average_accuracy, backward_transfer, forward_transfer
from mingle_edge.evaluation.protocols import HEAD_GIVEN, PROTOCOLS

FORMAT, FORMAT_VERSION = "mingle-edge comparison", 1

Accuracies = list[list[float | None]]
"""Rows after 0, 1, ... T tasks, columns in the order of the cell."""


@dataclass(frozen=True)
class Finished:
    """A cell with its result."""

    cell: Cell
    result: CellResult


def summarize(cells: Sequence[Finished], pretrained: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return ACC, BWT and, under P1, FWT of one method over its orders; `pretrained`: each task's accuracy before any merge."""
    summary: dict[str, dict[str, float]] = {}
    for protocol in PROTOCOLS:
        values: dict[str, list[float]] = {"acc": [], "bwt": []}
        for finished in cells:
            rows = finished.result.accuracy[protocol]
            final, own = _known(rows[-1]), _known([rows[t + 1][t] for t in range(len(rows) - 1)])
            values["acc"].append(average_accuracy(final))
            values["bwt"].append(backward_transfer(own, final))
            if protocol == HEAD_GIVEN:
                coming = _known([rows[t][t] for t in range(len(rows) - 1)])
                before = [pretrained[task] for task in finished.cell.order]
                values.setdefault("fwt", []).append(forward_transfer(coming, before))
        summary[protocol] = {key: value for name, of_orders in values.items() for key, value in _spread(name, of_orders)}
    return summary


def steps(cells: Sequence[Finished]) -> dict[str, dict[str, list[float]]]:
    """Return, by protocol, after each step the mean accuracy of the tasks merged so far: mean and deviation over orders."""
    curves_by_protocol = {}
    for protocol in PROTOCOLS:
        curves = [
            [fmean(_known(row[: t + 1])) for t, row in enumerate(finished.result.accuracy[protocol][1:])] for finished in cells
        ]
        at_step = list(zip(*curves, strict=True))
        curves_by_protocol[protocol] = {"mean": [fmean(v) for v in at_step], "std": [_deviation(v) for v in at_step]}
    return curves_by_protocol


def by_task(cells: Sequence[Finished], tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return, by protocol and task, the final accuracy, mean over orders."""
    return {
        protocol: {
            task: fmean(_known([f.result.accuracy[protocol][-1][f.cell.order.index(task)] for f in cells])) for task in tasks
        }
        for protocol in PROTOCOLS
    }


def between_tasks(
    cells: Sequence[Finished], tasks: Sequence[str], rows: Callable[[CellResult], list[list[float]] | None]
) -> list[list[float]] | None:
    """Return a table of tasks by tasks (and what follows them) in the order of `tasks`, mean over orders; None where there is
    none.
    """
    tables = []
    for finished in cells:
        table = rows(finished.result)
        if table is None:
            return None
        place = [finished.cell.order.index(task) for task in tasks]
        tables.append([[table[row][column] for column in [*place, *range(len(tasks), len(table[row]))]] for row in place])
    return [[fmean(values) for values in zip(*of_row, strict=True)] for of_row in zip(*tables, strict=True)]


def method_figures(cells: Sequence[Finished]) -> dict[str, Any]:
    """Return bytes, latency and the seconds each further task took.

    The latency of the plain backbone is 1, as it is what latencies are given in; measured against itself it would be the
    noise of the machine.
    """
    ratios = [f.result.latency_ratio for f in cells if f.result.latency_ratio is not None]
    measured = sorted(ratios)[len(ratios) // 2] if ratios else None
    return {
        "stored_bytes": cells[0].result.stored_bytes,
        "active_bytes": cells[0].result.active_bytes,
        "bytes_per_task": cells[0].result.bytes_per_task,
        "latency_ratio": 1.0 if cells[0].cell.method == PRETRAINED else measured,
        "seconds_per_task": [fmean(values) for values in zip(*(f.result.seconds for f in cells), strict=True)],
    }


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _spread(name: str, values: Sequence[float]) -> list[tuple[str, float]]:
    return [(name, fmean(values)), (f"{name}_std", _deviation(values))]


def _deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation; 0 for one value."""
    return stdev(values) if len(values) > 1 else 0.0
