"""A comparison as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from mingle_edge.comparison.page import compression, figures, headline, side_tables, tables
from mingle_edge.comparison.ranking import accuracy, order_name, ordered, orders_finished, timed_in
from mingle_edge.comparison.ranking import methods as compared
from mingle_edge.comparison.registry import REFERENCES
from mingle_edge.core.wording import count, percentage
from mingle_edge.files.output_path import write_output
from mingle_edge.pages.page import plain, record, render

_MEANINGS = {
    "P1": "The application names the head, so only labels of the image's own task compete; which expert answers is not told.",
    "P2": "The application names head and task, so the method may use that task's expert.",
    "P3": "Nothing is told: labels of all tasks merged so far compete.",
    "ACC": "Mean over tasks of the accuracy after the last merge.",
    "BWT": "Mean over all tasks but the last of final accuracy minus accuracy right after the task's own merge.",
    "FWT": "Mean over all tasks but the first of accuracy right before the task's own merge minus the pretrained backbone's.",
}
_FORGETTING = "BWT is the change on earlier tasks since their own merge. Up and to the right is better."
_COMPRESSION = (
    "Head and task are given (P2), so nothing is lost to a router. MB a task: what one more task adds; what all tasks share "
    "beside the backbone is in MB stored."
)
_COSTS_ARE = (
    "MB stored for all tasks and the backbone, read for one image. Time: of one image in {}, over the plain backbone's, "
    "which is 1; mingle-edge profile measures what a bundle takes on a device."
)
_BY_TASK = "Final accuracy in percent, mean over orders, tasks in the order of the task file."
_MATRIX = (
    "Rows: after a task was merged; columns: accuracy on each task, in the order of the rows. Framed: right after a task's own "
    "merge. A column that pales downwards is forgotten."
)
_ROUTES = (
    "Final state, mean over orders. Table: means over tasks. Maps: rows are images of a task, columns the task whose expert "
    "answered, in the order of the rows, last the plain backbone."
)
_GROWTH = (
    "MB stored on the device; x: multiply-adds of one image over the plain backbone's. After the first task and the last, and "
    "what one more task adds. Products outside PyTorch, as of a router, are not counted."
)
_KNOWLEDGE = (
    "ACC in percent. Images of {}, which no method ever merged, with their own heads and the task not told; gained: against "
    "the pretrained model. H-score: the harmonic mean of ACC on merged tasks in P1 and on these. To no task: their images that "
    "a router refuses."
)
_CONFUSION = "P3. Rows: images of a task; columns: the task of the label that won, in the order of the rows."


def write_page(results: Mapping[str, Any], path: Path) -> None:
    """Write the page of the results of a comparison, the object of `results.json`. Raises `OutputError`."""
    write_output(path, page(results))


def page(results: Mapping[str, Any]) -> str:
    """Return the whole document."""
    labels, protocols, methods, tasks = ordered(results), results["protocols"], results["methods"], results["tasks"]
    columns = tables.columns(results)
    corruptions, corrupted = tables.corruptions(results)
    identified = side_tables.identification(results)
    settings = results["settings"] | {"seconds in all": f"{results['seconds']:.1f}"}
    return render(
        "comparison.html",
        title=f"Comparison of {_compared(results)} on {count(len(tasks), 'task')}",
        results=results,
        summary=f"{results['task_file']}, {count(len(results['orders']), 'task order')}, "
        f"{sum(task['test_images'] for task in tasks)} test images",
        failed=count(len(results["failed"]), "cell") if results["failed"] else None,
        lead=headline.lead(results),
        tiles=headline.tiles(results),
        told=headline.TOLD,
        labels=labels,
        references=REFERENCES,
        costs_are=_COSTS_ARE.format(timed_in(results)),
        missing={label: _missing(results, label) for label in labels},
        columns=columns,
        groups=[(name, len([*members])) for name, members in groupby(columns, key=lambda column: column[0])],
        tuned={label: _tuned(methods[label]["tuning"]) for label in labels},
        described=[_described(label, methods[label]) for label in labels],
        against=[
            ("Accuracy and forgetting", _FORGETTING, figures.forgetting(results)),
            *(
                (title, "Up and to the left is better.", {protocols[0]: chart})
                for title, chart in figures.costs(results).items()
            ),
        ],
        compression=compression.compression(results),
        compression_is=_COMPRESSION,
        compression_kinds=compression.KINDS,
        compression_head=compression.HEAD,
        identification_head=side_tables.IDENTIFICATION_HEAD,
        growth=side_tables.growth(results),
        growth_head=side_tables.growth_head(results),
        growth_is=_GROWTH,
        knowledge=side_tables.knowledge(results),
        knowledge_head=side_tables.KNOWLEDGE_HEAD,
        knowledge_is=_KNOWLEDGE.format(", ".join(task["name"] for task in results["unmerged_tasks"])),
        steps=figures.after_steps(results),
        acc={label: percentage(accuracy(results, label, protocols[0])) for label in labels},
        colors=[(figures.COLORS[protocol], protocol) for protocol in protocols],
        tinted_tables=[
            ("Task by task", _BY_TASK, [task["name"] for task in tasks], tables.by_task(results)),
            ("Corrupted images", "ACC in percent on corrupted test images.", corruptions, corrupted),
        ],
        heat_maps=[
            ("Accuracy matrix", f"{protocols[0]}, first order. {_MATRIX}", [], tables.matrices(results)),
            ("Where a router sends images", _ROUTES, identified, tables.between_tasks(results, "routes")),
            ("Confusion between tasks", _CONFUSION, [], tables.between_tasks(results, "confusion")),
        ],
        tuning=figures.tuning(results),
        trials=tables.trials(results),
        adding=tables.adding(results),
        failures=[
            (cell["method"], order_name(results, cell["order"]), cell["corruption"] or "clean images", cell["error"])
            for cell in results["failed"]
        ],
        meanings=[(name, _MEANINGS[name]) for name in (*protocols, "ACC", "BWT", "FWT")],
        record=record({"settings": settings, "machine": results["machine"], "versions": results["versions"]}),
        tasks=[[task[key] for key in ("name", "classes", "test_images", "tune_images", "seed_images")] for task in tasks],
        orders=[(i, ", ".join(order)) for i, order in enumerate(results["orders"], 1)],
    )


def _compared(results: Mapping[str, Any]) -> str:
    number = len(compared(results))
    return count(number, "method") if number else "the references"


def _missing(results: Mapping[str, Any], label: str) -> str:
    """What to say beside the label of a method whose cells did not all finish."""
    finished, orders = orders_finished(results, label), len(results["orders"])
    if label not in results["accuracy"]:
        return " failed"
    return f" {finished} of {orders} orders" if finished < orders else ""


def _tuned(tuning: Mapping[str, Any] | None) -> str:
    return (plain(tuning["chosen"]) or "as published") if tuning else ""


def _described(label: str, method: Mapping[str, Any]) -> list[str]:
    idea = method["summary"] if method["method"] == label else f"{method['method']}: {method['summary']}"
    return [label, idea, plain(method["parameters"]) or "none"]
