"""Sections of the page that are tables: tasks, corruptions, time to add a task, failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mingle_edge.comparison.page.headline import TOLD
from mingle_edge.comparison.page.main_table import REFERENCES
from mingle_edge.comparison.ranking import accuracy, order_name, ordered
from mingle_edge.comparison.wording import MISSING, digits, finite, percentage, times
from mingle_edge.pages.cards import details, section, table
from mingle_edge.pages.elements import Html, tag

_TINTS = 10
_LEVEL = 10  # columns: the heads of more are turned upright


def by_task(results: Mapping[str, Any]) -> Iterator[Html]:
    """Final accuracy on every task."""
    names = [task["name"] for task in results["tasks"]]
    parts = []
    for protocol in results["protocols"]:
        rows = {
            label: [found[protocol].get(name) for name in names]
            for label in ordered(results)
            if protocol in (found := results["by_task"].get(label, {}))
        }
        if rows:
            parts.append((protocol, tinted(names, rows)))
    about = "Final accuracy in percent, mean over orders, tasks in the order of the task file."
    yield from _by_protocol("Task by task", about, parts)


def corruptions(results: Mapping[str, Any]) -> Iterator[Html]:
    """Accuracy on corrupted images, beside the clean ones."""
    found = results["corrupted"]
    names = list(dict.fromkeys(name for label in ordered(results) for name in found.get(label, {})))
    parts = []
    for protocol in results["protocols"]:
        rows = {}
        for label in ordered(results):
            if label in found:
                values = [finite(found[label].get(name, {}).get(protocol, {}).get("acc")) for name in names]
                known = [value for value in values if value is not None]
                mean = [sum(known) / len(known) if len(known) == len(names) else None] if len(names) > 1 else []
                rows[label] = [accuracy(results, label, protocol), *values, *mean]
        if names and rows:
            last = ["mean, corrupted"] if len(names) > 1 else []
            parts.append((protocol, tinted(["clean", *(name.replace("_", " ") for name in names), *last], rows)))
    yield from _by_protocol("Corrupted images", "ACC in percent on corrupted test images.", parts)


def _by_protocol(title: str, about: str, parts: Sequence[tuple[str, Html]]) -> Iterator[Html]:
    """A section with the first protocol open and the others folded."""
    if parts:
        (first, shown), *others = parts
        folded = [details(f"The same in {protocol}", part) for protocol, part in others]
        yield section(title, f"{about} {first}{': ' + TOLD[first] if first in TOLD else ''}.", shown, *folded)


def tinted(head: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> Html:
    """A table of percentages, coloured by value, the best of each column in bold, references apart."""
    known = [value for cells in rows.values() for cell in cells if (value := finite(cell)) is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    best = []
    for i in range(len(head)):
        column = [value for label, cells in rows.items() if label not in REFERENCES and (value := finite(cells[i])) is not None]
        best.append(max(column, default=None))
    body = []
    for label, cells in rows.items():
        row = [tag("th", label, scope="row")]
        for i, cell in enumerate(cells):
            value = finite(cell)
            shade = f"tint-{round(_TINTS * (value - low) / ((high - low) or 1.0))}" if value is not None else None
            leads = value is not None and value == best[i] and label not in REFERENCES
            row.append(tag("td", tag("b", percentage(cell)) if leads else percentage(cell), class_=shade))
        body.append(tag("tr", *row, class_="reference" if label in REFERENCES else None))
    kind = "upright" if len(head) > _LEVEL else None
    first = tag("tr", tag("th", ""), *(tag("th", tag("span", name), scope="col", class_=kind) for name in head))
    return tag("div", tag("table", tag("thead", first), tag("tbody", *body), class_="tinted"), class_="scroll")


def adding(results: Mapping[str, Any]) -> Iterator[Html]:
    """Seconds to add a task, first to last."""
    rows, count = [], len(results["tasks"])
    for label in ordered(results):
        seconds = [finite(second) or 0.0 for second in results["methods"][label].get("seconds_per_task", ())]
        if len(seconds) > 1 and max(seconds) > 0:
            ratio = times(seconds[-1] / seconds[1]) if seconds[1] > 0 else MISSING
            rows.append([label, *map(digits, (seconds[0], seconds[1], seconds[-1])), ratio, digits(sum(seconds))])
    if rows:
        head = ["", "task 1", "task 2", f"task {count}", f"{count} / 2", "all"]
        yield section(
            "Time to add a task",
            f"Seconds, mean over orders; {count} / 2: the last task against the second.",
            table(head, rows),
        )


def failures(results: Mapping[str, Any]) -> Iterator[Html]:
    """Cells that did not finish."""
    rows = [
        [cell["method"], order_name(results, cell["order"]), cell["corruption"] or "clean images", cell["error"]]
        for cell in results["failed"]
    ]
    if rows:
        about = "Their methods are averaged over the orders that finished. Run the same command again to try these again."
        yield section("Failed cells", about, tag("div", table(["method", "order", "images", "error"], rows), class_="facts"))
