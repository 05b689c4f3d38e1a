"""What each method stores of a task beside what that keeps of the task's own model: a chart and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mingle_edge.comparison.ranking import INDIVIDUAL, accuracy
from mingle_edge.comparison.registry import IMAGE_METHODS
from mingle_edge.core.wording import digits, finite, megabytes, percentage
from mingle_edge.evaluation.protocols import TASK_GIVEN
from mingle_edge.pages.curve_charts import scatter

KINDS = [("blue", "experts of the image scope"), ("orange", "other methods"), ("grey", "the fine-tuned models")]
"""Colors of the chart."""
HEAD = ["", "MB a task", "of a model, %", "ACC, %", "points lost"]
"""Of the table."""
_MARKS = dict(zip(("blue", "orange", "grey"), ("circle", "square", "diamond"), strict=True))


@dataclass(frozen=True)
class Stored:
    """A method that stores something of each task."""

    label: str
    color: str
    size: int  # bytes a task
    of_model: float  # percent of a fine-tuned model's bytes
    acc: float  # with the task named, percent
    individual: float  # the fine-tuned models' own, percent; above 0

    @property
    def kept(self) -> float:
        """Return the share of the fine-tuned models' accuracy that is kept, in percent."""
        return 100 * self.acc / self.individual


def compression(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the chart and the rows of the table, most bytes first; None where nothing can be compared."""
    rows = _stored(results)
    if len(rows) < 2:
        return None
    shown = [
        [row.label, megabytes(row.size), digits(row.of_model), percentage(row.acc), percentage(row.individual - row.acc)]
        for row in rows
    ]
    return {"chart": _chart(rows), "rows": shown}


def _stored(results: Mapping[str, Any]) -> list[Stored]:
    model, individual = _bytes(results, INDIVIDUAL), accuracy(results, INDIVIDUAL, TASK_GIVEN)
    if model is None or individual is None or individual <= 0:
        return []
    rows = [
        Stored(label, _color(method["method"]), size, 100 * size / model, acc, individual)
        for label, method in results["methods"].items()
        if (size := _bytes(results, label)) is not None and (acc := accuracy(results, label, TASK_GIVEN)) is not None
    ]
    return sorted(rows, key=lambda row: -row.size)


def _chart(rows: list[Stored]) -> Markup:
    across, up = "MB a task", f"ACC kept in {TASK_GIVEN}, %"
    points = [
        {
            "name": row.label,
            "color": row.color,
            "shape": _MARKS[row.color],
            "x": row.size / 1e6,
            "y": row.kept,
            "told": f"{row.label}: {megabytes(row.size)} MB a task, {percentage(row.kept)}% of the models' own ACC",
        }
        for row in rows
    ]
    return scatter(f"{up} against {across}", points, across, up)


def _bytes(results: Mapping[str, Any], label: str) -> int | None:
    """Return the bytes a task adds; None where it adds nothing or none were measured."""
    size = finite(results["methods"].get(label, {}).get("bytes_per_task"))
    return int(size) if size is not None and size > 0 else None


def _color(method: str) -> str:
    return "grey" if method == INDIVIDUAL else "blue" if method in IMAGE_METHODS else "orange"
