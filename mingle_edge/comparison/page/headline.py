"""What a comparison says in words: the best method of each protocol, and how far it is from the references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mingle_edge.comparison.page.figures import COLORS
from mingle_edge.comparison.ranking import INDIVIDUAL, PRETRAINED, accuracy, is_one_model, methods, ranked, timed_in
from mingle_edge.core.wording import count, difference, finite, megabytes, percentage, times
from mingle_edge.pages.row_charts import between

TOLD = {
    "P1": "the head is given, the task is not",
    "P2": "head and task are given",
    "P3": "nothing is given",
}
"""What the application tells, by protocol."""


def lead(results: Mapping[str, Any]) -> str:
    """Return sentences on the method that is best by the first protocol."""
    protocol = results["protocols"][0]
    compared, finished = methods(results), ranked(results, protocol)
    if not finished:
        return "No method finished, so there is nothing to compare but the references."
    best, several = finished[0], len(compared) > 1
    where = f"{count(len(results['tasks']), 'task')} in {count(len(results['orders']), 'order')}"
    failed = f" ({len(compared) - len(finished)} without a figure)" if len(finished) < len(compared) else ""
    first = f"Of {len(compared)} methods{failed} on {where}, {best} is the most accurate"
    if not several:
        first = f"On {where}, {best}, the only method, is measured"
    acc = f"{percentage(accuracy(results, best, protocol))}%"
    distances = _listed(list(_from_references(results, best, protocol)))
    facts = _listed([*_forgets(results, best, protocol), *_costs(results, best)])
    return f"{first} in {protocol} ({TOLD[protocol]}): {acc}{f', {distances}' if distances else ''}. It {facts}."


def tiles(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each protocol its best method, that one's accuracy, and its place between the references."""
    return [_tile(results, protocol) for protocol in results["protocols"]]


def _tile(results: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    tile = {"title": f"{protocol}: {TOLD[protocol]}", "color": COLORS[protocol]}
    finished = ranked(results, protocol)
    if not finished:
        return tile | {"best": None}
    best, acc = finished[0], accuracy(results, finished[0], protocol)
    deviation = accuracy(results, best, protocol, "acc_std") if len(results["orders"]) > 1 else None
    return tile | {
        "best": best,
        "acc": f"{percentage(acc)}%",
        "spread": f" ± {percentage(deviation)}" if deviation is not None else "",
        "sentence": f"{_sentence(results, finished, protocol)}.",
        **_between(results, best, protocol),
    }


def _sentence(results: Mapping[str, Any], finished: list[str], protocol: str) -> str:
    best, parts = finished[0], []
    acc = accuracy(results, best, protocol) or 0.0
    for label in (INDIVIDUAL, PRETRAINED):
        if (other := accuracy(results, label, protocol)) is not None:
            parts.append(f"{_points(acc - other)} {label}")
    single = next((label for label in finished if is_one_model(results, label)), None)
    if single == best:
        parts.append("it is one plain model")
    elif single is not None:
        parts.append(f"{_points(acc - (accuracy(results, single, protocol) or 0.0))} {single}, the best single model")
    if len(finished) > 1 and finished[1] != single:
        behind = difference(acc - (accuracy(results, finished[1], protocol) or 0.0)).lstrip("+")
        parts.append(f"next is {finished[1]}, " + ("level with it" if behind == "0.0" else f"{behind} points behind"))
    return "; ".join(parts) or "There is no reference to compare it with"


def _between(results: Mapping[str, Any], best: str, protocol: str) -> dict[str, Any]:
    """A line from the lowest to the highest of references, best single model and best, and the names of its ends."""
    single = next((label for label in ranked(results, protocol) if is_one_model(results, label)), None)
    labels = dict.fromkeys(label for label in (PRETRAINED, single, best, INDIVIDUAL) if label)
    places = {label: acc for label in labels if (acc := accuracy(results, label, protocol)) is not None}
    low, high = min(places, key=lambda label: places[label]), max(places, key=lambda label: places[label])
    if places[high] <= places[low]:
        return {"chart": None}
    told = {label: (acc, f"{label} {percentage(acc)}%") for label, acc in places.items()}
    ends = [f"{'best' if label == best else label} {percentage(places[label])}" for label in (low, high)]
    return {"chart": between(f"{best} between the references", told, best, COLORS[protocol]), "ends": ends}


def _from_references(results: Mapping[str, Any], best: str, protocol: str) -> Iterator[str]:
    acc = accuracy(results, best, protocol) or 0.0
    if (individual := accuracy(results, INDIVIDUAL, protocol)) is not None:
        yield f"{_points(acc - individual)} individual models"
    if (pretrained := accuracy(results, PRETRAINED, protocol)) is not None:
        yield f"{_points(acc - pretrained)} the pretrained backbone"


def _forgets(results: Mapping[str, Any], best: str, protocol: str) -> Iterator[str]:
    change = accuracy(results, best, protocol, "bwt")
    if change is not None and len(results["tasks"]) > 1:
        shown = difference(change)
        amount = "nothing" if shown == "0.0" else f"{shown.lstrip('+-')} points"
        yield f"{'gains' if shown.startswith('+') else 'loses'} {amount} on earlier tasks as later ones are added"


def _costs(results: Mapping[str, Any], best: str) -> Iterator[str]:
    method, models = results["methods"][best], results["methods"].get(INDIVIDUAL, {}).get("stored_bytes")
    share = f" ({100 * method['stored_bytes'] / models:.0f}% of individual)" if models else ""
    yield f"stores {megabytes(method['stored_bytes'])} MB{share}"
    if finite(method.get("latency_ratio")) is not None:
        yield f"takes {times(method['latency_ratio'])} times the backbone's time for an image, in {timed_in(results)}"


def _points(distance: float) -> str:
    shown = difference(distance)
    return "level with" if shown == "0.0" else f"{shown.lstrip('+-')} points {'above' if distance > 0 else 'below'}"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
