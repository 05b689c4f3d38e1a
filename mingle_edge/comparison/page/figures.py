"""The charts of the page: accuracy against forgetting and costs, accuracy after each step, trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from markupsafe import Markup

from mingle_edge.comparison.ranking import accuracy, is_one_model, leading, ordered
from mingle_edge.comparison.registry import REFERENCES
from mingle_edge.core.wording import finite, percentage
from mingle_edge.pages.axes import Axis, ratios, sizes
from mingle_edge.pages.curve_charts import Curve, curves_extent, scatter, small_steps, steps
from mingle_edge.pages.page import plain
from mingle_edge.pages.row_charts import trials

COLORS = {"P1": "blue", "P2": "green", "P3": "orange"}
"""Of the protocols."""
_LEADING = ("blue", "orange", "green", "purple")
_COSTS = (
    ("Accuracy and storage", "stored_bytes", 1e6, "MB stored on the device", sizes),
    ("Accuracy and bytes read", "active_bytes", 1e6, "MB read for one image", sizes),
    ("Accuracy and time in PyTorch", "latency_ratio", 1.0, "times the backbone's time", ratios),
)

Results = Mapping[str, Any]


def forgetting(results: Results) -> dict[str, Markup]:
    """Return accuracy against BWT by protocol, where there is anything to compare."""
    if len(results["tasks"]) < 2:
        return {}
    drawn = {}
    for protocol in results["protocols"]:
        changes = {label: accuracy(results, label, protocol, "bwt") for label in results["methods"]}
        drawn[protocol] = _against(results, protocol, changes, "BWT, points", sizes)
    return {protocol: chart for protocol, chart in drawn.items() if chart is not None}


def costs(results: Results) -> dict[str, Markup]:
    """Return accuracy in the first protocol against bytes and time, by title."""
    drawn = {}
    for title, name, unit, told, axis in _COSTS:
        measured = {label: finite(method.get(name)) for label, method in results["methods"].items()}
        scaled = {label: value / unit if value is not None and value > 0 else None for label, value in measured.items()}
        drawn[title] = _against(results, results["protocols"][0], scaled, told, axis)
    return {title: chart for title, chart in drawn.items() if chart is not None}


def _against(
    results: Results,
    protocol: str,
    costs: Mapping[str, float | None],
    across: str,
    axis: Callable[[Sequence[float]], Axis],
) -> Markup | None:
    """Accuracy against one value per label; None where there is nothing to compare."""
    points = [
        _look(results, label)
        | {"name": label, "x": cost, "y": acc, "told": f"{label}: ACC {percentage(acc)}%, {cost:.4g} {across}"}
        for label, cost in costs.items()
        if cost is not None and (acc := accuracy(results, label, protocol)) is not None
    ]
    up = f"ACC in {protocol}, %"
    return scatter(f"{up} against {across}", points, across, up, axis) if len(points) > 1 else None


def _look(results: Results, label: str) -> dict[str, Any]:
    if label in REFERENCES:
        return {"color": "grey", "shape": "diamond"}
    return {"color": "orange", "shape": "square"} if is_one_model(results, label) else {"color": "blue", "shape": "circle"}


def after_steps(results: Results) -> dict[str, Any] | None:
    """Return the leading methods in one chart with its legend, then every method by itself; None where there are no steps."""
    protocols = results["protocols"]
    first = protocols[0]
    by_label = {label: results["steps"][label] for label in ordered(results) if label in results["steps"]}
    main = {label: by_protocol[first] for label, by_protocol in by_label.items() if first in by_protocol}
    if len(results["tasks"]) < 2 or not main:
        return None
    shown = [label for label in leading(results) if label in main]
    colors = dict(zip(shown, _LEADING, strict=False)) | {label: "grey" for label in REFERENCES if label in main}
    quiet = [_curve("", "grey", step, banded=False, opacity=0.35) for label, step in main.items() if label not in colors]
    named = [_curve(label, name, main[label], dashed=name == "grey", named=True) for label, name in colors.items()]
    small = {
        label: [  # the first protocol is drawn last, so on top
            _curve(protocol, COLORS[protocol], by_protocol[protocol], **_wide(protocol))
            for protocol in reversed(protocols)
            if protocol in by_protocol
        ]
        for label, by_protocol in by_label.items()
    }
    ends = curves_extent(chain.from_iterable(small.values()))
    return {
        "chart": steps("Accuracy after each step", [*quiet, *named], curves_extent(quiet + named)),
        "legend": [
            *zip(_LEADING, shown, strict=False),
            ("grey", "references, dashed"),
            *([("grey faint", "other methods")] if quiet else []),
        ],
        "small": {label: small_steps(label, curves, ends) for label, curves in small.items()},
    }


def _curve(label: str, name: str, step: Mapping[str, Sequence[Any]], banded: bool = True, **look: Any) -> Curve:
    deviation = [finite(value) for value in step["std"]] if banded else []
    return Curve(label, name, [finite(value) for value in step["mean"]], deviation, **look)


def _wide(protocol: str) -> dict[str, Any]:
    """A pale wide line under the others, since P2 mostly lies on P1."""
    return {"width": 4, "opacity": 0.45} if protocol == "P2" else {}


def tuning(results: Results) -> Markup | None:
    """Return the accuracy of all trials, with the chosen ones filled; None where nothing was tuned."""
    rows = {
        label: [
            (acc, f"{plain(trial['parameters'])}: {percentage(acc)}%", trial["parameters"] == tuned["chosen"])
            for trial in tuned["trials"]
            if (acc := finite(trial["acc"])) is not None
        ]
        for label in reversed(ordered(results))
        if (tuned := results["methods"][label]["tuning"])
    }
    return trials("ACC of the trials", rows, "purple", "ACC, %") if any(rows.values()) else None
