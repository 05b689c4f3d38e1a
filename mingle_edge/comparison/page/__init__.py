"""A comparison as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from mingle_edge.comparison.page import figures, headline, tables
from mingle_edge.comparison.ranking import accuracy, order_name, ordered, orders_finished
from mingle_edge.comparison.wording import count, parameters, percentage
from mingle_edge.files.output_path import write_output
from mingle_edge.pages.page import render

_MEANINGS = {
    "P1": "The application names the head, so only labels of the image's own task compete; which expert answers is not told.",
    "P2": "The application names head and task, so the method may use that task's expert.",
    "P3": "Nothing is told: labels of all tasks merged so far compete.",
    "ACC": "Mean over tasks of the accuracy after the last merge.",
    "BWT": "Mean over all tasks but the last of final accuracy minus accuracy right after the task's own merge.",
    "FWT": "Mean over all tasks but the first of accuracy right before the task's own merge minus the pretrained backbone's.",
}


def write_page(results: Mapping[str, Any], path: Path) -> None:
    """Write the page of the results of a comparison, the object of `results.json`. Raises `OutputError`."""
    write_output(path, page(results))


def page(results: Mapping[str, Any]) -> str:
    """Return the whole document."""
    labels, protocols = ordered(results), results["protocols"]
    columns = tables.columns(results)
    corruptions, corrupted = tables.corruptions(results)
    methods = results["methods"]
    return render(
        "comparison.html",
        title=f"Comparison of {count(len(methods), 'method')} on {count(len(results['tasks']), 'task')}",
        results=results,
        summary=f"{results['task_file']}, {count(len(results['orders']), 'task order')}, "
        f"{sum(task['test_images'] for task in results['tasks'])} test images",
        failed=count(len(results["failed"]), "cell") if results["failed"] else None,
        lead=headline.lead(results),
        tiles=headline.tiles(results),
        told=headline.TOLD,
        labels=labels,
        references=tables.REFERENCES,
        missing={label: _missing(results, label) for label in labels},
        columns=columns,
        groups=[(name, len([*members])) for name, members in groupby(columns, key=lambda column: column[0])],
        tuned={label: _tuned(methods[label]["tuning"]) for label in labels},
        forgetting=figures.forgetting(results),
        costs=figures.costs(results),
        steps=figures.after_steps(results),
        acc={label: percentage(accuracy(results, label, protocols[0])) for label in labels},
        colors=[(figures.COLORS.get(protocol, "grey"), protocol) for protocol in protocols],
        by_task=tables.by_task(results),
        matrices=tables.matrices(results),
        routes=tables.between_tasks(results, "routes"),
        confusions=tables.between_tasks(results, "confusion"),
        corruptions=corruptions,
        corrupted=corrupted,
        tuning=figures.tuning(results),
        adding=tables.adding(results),
        meanings=_MEANINGS,
        order_name=order_name,
        parameters=parameters,
        percentage=percentage,
    )


def _missing(results: Mapping[str, Any], label: str) -> str:
    """What to say beside the label of a method whose cells did not all finish."""
    finished, orders = orders_finished(results, label), len(results["orders"])
    if label not in results["accuracy"]:
        return " failed"
    return f" {finished} of {orders} orders" if finished < orders else ""


def _tuned(tuning: Mapping[str, Any] | None) -> str:
    return (parameters(tuning["chosen"]) or "as published") if tuning else ""
