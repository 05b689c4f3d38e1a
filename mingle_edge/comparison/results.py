"""From cells to figures: mean and deviation over orders of ACC, BWT and FWT, by method, protocol and corruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean, stdev
from typing import Any

from mingle_edge.comparison.cell import Cell, CellResult
from mingle_edge.comparison.entries import Entry
from mingle_edge.comparison.ranking import PRETRAINED
from mingle_edge.comparison.registry import SPECS
from mingle_edge.comparison.tuning import Tuning
from mingle_edge.evaluation.metrics import average_accuracy, backward_transfer, forward_transfer
from mingle_edge.evaluation.protocols import HEAD_GIVEN, PROTOCOLS

FORMAT, FORMAT_VERSION = "mingle-edge comparison", 2

_BY_LABEL = ("methods", "accuracy", "steps", "matrix", "by_task", "routes", "identified", "confusion", "growth", "unmerged")

Accuracies = list[list[float | None]]
"""Rows after 0, 1, ... T tasks, columns in the order of the cell."""


@dataclass(frozen=True)
class Finished:
    """A cell with its result."""

    cell: Cell
    result: CellResult


def all_figures(
    entries: Sequence[Entry], finished: Sequence[Finished], tasks: Sequence[str], tunings: Mapping[str, Tuning]
) -> dict[str, Any]:
    """Return all figures of results.json, by label. A method none of whose cells finished is only described."""
    by_label: dict[str, list[Finished]] = {entry.label: [] for entry in entries}
    corrupted: dict[str, dict[str, list[Finished]]] = {}
    for cell in finished:
        if cell.cell.corruption is None:
            by_label[cell.cell.label].append(cell)
        else:
            corrupted.setdefault(cell.cell.label, {}).setdefault(cell.cell.corruption.name, []).append(cell)
    pretrained = by_task(by_label["pretrained"], tasks)[HEAD_GIVEN] if by_label["pretrained"] else {}
    shown: dict[str, Any] = {key: {} for key in _BY_LABEL}
    for entry in entries:
        label, cells = entry.label, by_label[entry.label]
        shown["methods"][label] = {
            "method": entry.method,
            "parameters": dict(entry.parameters) | ({"seeds_per_class": n} if (n := entry.seeds_per_class) is not None else {}),
            "summary": SPECS[entry.method].summary,
            "tuning": tunings[label].to_json() if label in tunings else None,
        }
        if not cells or not pretrained:
            continue
        shown["methods"][label] |= method_figures(cells)
        shown["accuracy"][label] = summarize(cells, pretrained)
        if cells[0].cell.every_step:
            shown["steps"][label] = steps(cells)
        shown["matrix"][label] = {p: rows[1:] for p, rows in cells[0].result.accuracy.items()}
        shown["by_task"][label] = by_task(cells, tasks)
        if (routes := between_tasks(cells, tasks, lambda result: result.routes)) is not None:
            shown["routes"][label] = routes
            shown["identified"][label] = identified(routes)
        if (confusion := between_tasks(cells, tasks, lambda result: result.confusion)) is not None:
            shown["confusion"][label] = confusion
        if (grown := growth(cells)) is not None:
            shown["growth"][label] = grown
        if (known := general_knowledge(cells)) is not None:
            shown["unmerged"][label] = known
    shown["corrupted"] = {
        label: {
            name: summarize(cells, by_task(before, tasks)[HEAD_GIVEN])
            for name, cells in of_label.items()
            if (before := corrupted.get("pretrained", {}).get(name))
        }
        for label, of_label in corrupted.items()
    }
    return shown


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


def identified(routes: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return what a table of routes says in short: images sent to their own task, and to none, means over tasks in percent."""
    return {"own": fmean(row[i] for i, row in enumerate(routes)), "unclaimed": fmean(row[-1] for row in routes)}


def growth(cells: Sequence[Finished]) -> dict[str, Any] | None:
    """Return bytes and multiply-adds after each task, and what one more task adds to them, means over orders.

    `stored_bytes [T]`; `multiply_adds [T]` of one image over the plain backbone's. What a task adds is the mean over all but
    the first; None where there is one task. None where multiply-adds were not counted.
    """
    if not all(f.result.multiply_adds and f.result.multiply_adds[0] > 0 for f in cells):
        return None
    stored = [fmean(of_orders) for of_orders in zip(*(f.result.stored_after for f in cells), strict=True)]
    ratios = [[count / f.result.multiply_adds[0] for count in f.result.multiply_adds[1:]] for f in cells]
    compute = [fmean(of_orders) for of_orders in zip(*ratios, strict=True)]
    further = len(stored) - 1
    return {
        "stored_bytes": stored,
        "multiply_adds": compute,
        "backbone_multiply_adds": cells[0].result.multiply_adds[0],
        "stored_bytes_per_task": (stored[-1] - stored[0]) / further if further else None,
        "multiply_adds_per_task": (compute[-1] - compute[0]) / further if further else None,
    }


def general_knowledge(cells: Sequence[Finished]) -> dict[str, Any] | None:
    """Return accuracy on tasks never merged, zero-shot with their own heads, and the H-score, percent over orders.

    The H-score is the harmonic mean of ACC under P1 and of that accuracy. `unclaimed`: the share of their images that a
    router sends to no task. None where every task is merged.
    """
    of_orders = [f.result.unmerged for f in cells if f.result.unmerged]
    if len(of_orders) < len(cells) or not cells:
        return None
    means = [fmean(accuracy.values()) for accuracy in of_orders]
    scores = [
        harmonic_mean((average_accuracy(_known(f.result.accuracy[HEAD_GIVEN][-1])), mean))
        for f, mean in zip(cells, means, strict=True)
    ]
    refused = [share for f in cells if f.result.refused for share in f.result.refused.values()]
    return {
        **dict(_spread("acc", means)),
        **dict(_spread("h_score", scores)),
        "by_task": {task: fmean(accuracy[task] for accuracy in of_orders) for task in of_orders[0]},
        "unclaimed": fmean(refused) if refused else None,
    }


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _spread(name: str, values: Sequence[float]) -> list[tuple[str, float]]:
    return [(name, fmean(values)), (f"{name}_std", _deviation(values))]


def _deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation; 0 for one value."""
    return stdev(values) if len(values) > 1 else 0.0
