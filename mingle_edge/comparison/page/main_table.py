"""The main table of the page: a row per method, sorted by accuracy between the references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mingle_edge.comparison.page.headline import TOLD
from mingle_edge.comparison.ranking import INDIVIDUAL, PRETRAINED, accuracy, ordered, orders_finished
from mingle_edge.comparison.wording import MISSING, difference, finite, megabytes, parameters, percentage, times
from mingle_edge.pages.cards import details, section, table
from mingle_edge.pages.elements import Html, tag

REFERENCES = (PRETRAINED, INDIVIDUAL)


@dataclass(frozen=True)
class _Column:
    group: str
    head: str
    cells: list[str]  # a cell per label
    starts: bool = False  # a group

    @property
    def kind(self) -> str | None:
        return "start" if self.starts else None


def methods(results: Mapping[str, Any]) -> Iterator[Html]:
    """The table, then what the methods are."""
    labels, orders = ordered(results), len(results["orders"])
    columns = [column for protocol in results["protocols"] for column in _accuracies(results, protocol, labels)]
    columns += _costs(results, labels)
    groups = [
        tag("th", group, tag("small", f" {TOLD.get(group, '')}"), colspan=len(list(members)), class_="group start")
        for group, members in groupby(columns, key=lambda column: column.group)
    ]
    last = tag("th", "tuned", rowspan=2, class_="start words")
    heads = [tag("th", column.head, scope="col", class_=column.kind) for column in columns]
    rows = []
    for i, label in enumerate(labels):
        cells = [tag("td", column.cells[i], class_=column.kind) for column in columns]
        name = tag("th", label, *_orders_missing(results, label), scope="row")
        tuned = tag("td", _tuned(results["methods"][label]), class_="start words")
        rows.append(tag("tr", name, *cells, tuned, class_="reference" if label in REFERENCES else None))
    about = "Percent; the best of each column is bold, references apart. "
    about += f"± is the deviation over {orders} orders. " if orders > 1 else ""
    about += "Sizes at 4 bytes a parameter, read: for one image. Time of one image relative to the plain backbone."
    first = tag("tr", tag("th", "method", rowspan=2), *groups, last)
    whole = tag("table", tag("thead", first, tag("tr", *heads)), tag("tbody", *rows), class_="methods")
    yield section("All methods", about, tag("div", whole, class_="scroll"), details("What they are", _descriptions(results)))


def _accuracies(results: Mapping[str, Any], protocol: str, labels: Sequence[str]) -> Iterator[_Column]:
    shows: dict[str, Callable[[Any], str]] = {"acc": percentage, "bwt": difference, "fwt": difference}
    for name, show in shows.items():
        found = {label: accuracy(results, label, protocol, name) for label in labels}
        if name == "fwt" and all(value is None for value in found.values()):
            continue
        best = max((value for label, value in found.items() if value is not None and label not in REFERENCES), default=None)
        cells = []
        for label, value in found.items():
            leads = value is not None and value == best and label not in REFERENCES
            deviation = accuracy(results, label, protocol, f"{name}_std") if len(results["orders"]) > 1 else None
            beside = [tag("small", f" ± {percentage(deviation)}")] if deviation is not None else []
            cells.append(tag("span", tag("b" if leads else "span", show(value)), *beside))
        yield _Column(protocol, name.upper(), list(cells), starts=name == "acc")


def _costs(results: Mapping[str, Any], labels: Sequence[str]) -> Iterator[_Column]:
    found = [results["methods"][label] for label in labels]
    yield _Column("cost", "MB stored", [megabytes(method.get("stored_bytes")) for method in found], starts=True)
    yield _Column("cost", "MB read", [megabytes(method.get("active_bytes")) for method in found])
    ratios = [finite(method.get("latency_ratio")) for method in found]
    yield _Column("cost", "time", [f"{times(ratio)} x" if ratio is not None else MISSING for ratio in ratios])


def _tuned(method: Mapping[str, Any]) -> str:
    tuning = method["tuning"]
    return (parameters(tuning["chosen"]) or "as published") if tuning else ""


def _orders_missing(results: Mapping[str, Any], label: str) -> Iterator[Html]:
    finished, orders = orders_finished(results, label), len(results["orders"])
    if label not in results["accuracy"]:
        yield tag("small", " failed", class_="failed")
    elif finished < orders:
        yield tag("small", f" {finished} of {orders} orders", class_="failed")


def _descriptions(results: Mapping[str, Any]) -> Html:
    rows = []
    for label in ordered(results):
        found = results["methods"][label]
        known = f"{found['method']}: {found['summary']}" if found["method"] != label else found["summary"]
        rows.append([label, known, parameters(found["parameters"]) or "none"])
    return tag("div", table(["", "idea and source", "parameters"], rows), class_="facts")
