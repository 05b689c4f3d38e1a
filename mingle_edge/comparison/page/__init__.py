"""A comparison as one HTML page: no script, nothing loaded from elsewhere, readable on a phone, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mingle_edge.comparison.page import figures, headline, main_table, tables
from mingle_edge.comparison.page.style import STYLE
from mingle_edge.comparison.wording import MISSING, count
from mingle_edge.output_path import write_output
from mingle_edge.pages import style
from mingle_edge.pages.cards import details, document, section, table
from mingle_edge.pages.elements import Html, tag

_MEANINGS = {
    "P1": "The application names the head, so only labels of the image's own task compete; which expert answers is not told.",
    "P2": "The application names head and task, so the method may use that task's expert.",
    "P3": "Nothing is told: labels of all tasks merged so far compete.",
    "ACC": "Mean over tasks of the accuracy after the last merge.",
    "BWT": "Mean over all tasks but the last of final accuracy minus accuracy right after the task's own merge.",
    "FWT": "Mean over all tasks but the first of accuracy right before the task's own merge minus the pretrained backbone's.",
}
_COUNTS = ("classes", "test_images", "tune_images", "seed_images")


def write_page(results: Mapping[str, Any], path: Path) -> None:
    """Write the page of the results of a comparison, the object of `results.json`. Raises `OutputError`."""
    write_output(path, page(results))


def page(results: Mapping[str, Any]) -> str:
    """The whole document."""
    parts = (
        main_table.methods,
        figures.scatters,
        figures.steps,
        tables.by_task,
        figures.matrices,
        figures.routes,
        figures.confusions,
        tables.corruptions,
        _effort,
        tables.failures,
        _making,
    )
    sections = [found for part in parts for found in part(results)]
    title = f"Comparison of {count(len(results['methods']), 'method')} on {count(len(results['tasks']), 'task')}"
    return document(title, style.STYLE + STYLE, _header(title, results), *sections)


def _header(title: str, results: Mapping[str, Any]) -> Html:
    failed = len(results["failed"])
    told = f"{count(failed, 'cell')} failed; figures are of the orders that finished, errors are listed below."
    images = sum(task["test_images"] for task in results["tasks"])
    return tag(
        "header",
        tag("h1", title),
        tag("p", f"{results['task_file']}, {count(len(results['orders']), 'task order')}, {images} test images"),
        *([tag("p", told, class_="warning")] if failed else []),
        tag("p", headline.lead(results), class_="lead"),
        headline.tiles(results),
    )


def _effort(results: Mapping[str, Any]) -> Iterator[Html]:
    """What tuning and adding took, side by side where there is room."""
    if parts := [*figures.tuning(results), *tables.adding(results)]:
        yield tag("div", *parts, class_="pairs")


def _making(results: Mapping[str, Any]) -> Iterator[Html]:
    known = [[name, _MEANINGS[name]] for name in (*results["protocols"], "ACC", "BWT", "FWT") if name in _MEANINGS]
    settings = {**results["settings"], "seconds in all": f"{results['seconds']:.1f}"}
    groups = {"settings": settings, "machine": results["machine"], "versions": results["versions"]}
    facts = [
        [f"{group}: {name.replace('_', ' ')}", _shown(value)]
        for group, values in groups.items()
        for name, value in values.items()
    ]
    tasks = [[task["name"], *(str(task[name]) for name in _COUNTS)] for task in results["tasks"]]
    orders = [[str(i), ", ".join(order)] for i, order in enumerate(results["orders"], 1)]
    yield section(
        "How it was made",
        "",
        tag("div", table(["", "meaning"], known), class_="facts"),
        details("Settings, machine, versions", tag("div", table(["", ""], facts), class_="facts")),
        details("Tasks", table(["task", *(name.replace("_", " ") for name in _COUNTS)], tasks)),
        details("Task orders", tag("div", table(["order", "tasks"], orders), class_="facts")),
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return MISSING if value is None else str(value)
