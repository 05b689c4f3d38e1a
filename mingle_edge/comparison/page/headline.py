"""What a comparison says in words: the best method of each protocol, and how far it is from the references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mingle_edge.comparison.ranking import INDIVIDUAL, PRETRAINED, accuracy, is_one_model, ranked
from mingle_edge.comparison.wording import count, difference, finite, megabytes, percentage, times
from mingle_edge.pages.drawing import chart, percent
from mingle_edge.pages.elements import Html, tag

TOLD = {
    "P1": "the head is given, the task is not",
    "P2": "head and task are given",
    "P3": "nothing is given",
}


def lead(results: Mapping[str, Any]) -> str:
    """Sentences on the method that is best by the first protocol."""
    protocol = results["protocols"][0]
    methods, tasks, orders = ranked(results, protocol), len(results["tasks"]), len(results["orders"])
    if not methods:
        return "No method finished, so there is nothing to compare but the references."
    best = methods[0]
    where = f"{count(tasks, 'task')} in {count(orders, 'order')}"
    first = (
        f"Of {len(methods)} methods on {where}, {best} is" if len(methods) > 1 else f"On {where}, {best}, the only method, is"
    )
    rank = "the most accurate" if len(methods) > 1 else "measured"
    acc = f"{percentage(accuracy(results, best, protocol))}%"
    told = f"in {protocol} ({TOLD[protocol]})" if protocol in TOLD else f"in {protocol}"
    distances = _listed(list(_from_references(results, best, protocol)))
    facts = _listed([*_forgets(results, best, protocol), *_costs(results, best)])
    return f"{first} {rank} {told}: {acc}{f', {distances}' if distances else ''}. It {facts}."


def tiles(results: Mapping[str, Any]) -> Html:
    """A tile for each protocol, with the best method's place between the references."""
    return tag("div", *(_tile(results, protocol) for protocol in results["protocols"]), class_="tiles protocols")


def _tile(results: Mapping[str, Any], protocol: str) -> Html:
    title = tag("span", f"{protocol}: {TOLD[protocol]}" if protocol in TOLD else protocol)
    methods = ranked(results, protocol)
    if not methods:
        return tag("div", title, tag("b", "no method finished"), class_=f"tile {protocol.lower()}")
    best = methods[0]
    acc, deviation = accuracy(results, best, protocol), accuracy(results, best, protocol, "acc_std")
    spread = tag("small", f" ± {percentage(deviation)}") if deviation is not None and len(results["orders"]) > 1 else Html("")
    return tag(
        "div",
        title,
        tag("b", best),
        tag("strong", f"{percentage(acc)}%", spread),
        *_between(results, best, protocol),
        tag("p", f"{_sentence(results, methods, protocol)}."),
        class_=f"tile {protocol.lower()}",
    )


def _sentence(results: Mapping[str, Any], methods: list[str], protocol: str) -> str:
    best, parts = methods[0], []
    acc = accuracy(results, best, protocol) or 0.0
    for label in (INDIVIDUAL, PRETRAINED):
        if (other := accuracy(results, label, protocol)) is not None:
            parts.append(f"{_points(acc - other)} {label}")
    single = next((label for label in methods if is_one_model(results, label)), None)
    if single == best:
        parts.append("it is one plain model")
    elif single is not None:
        parts.append(f"{_points(acc - (accuracy(results, single, protocol) or 0.0))} {single}, the best single model")
    if len(methods) > 1 and methods[1] != single:
        behind = difference(acc - (accuracy(results, methods[1], protocol) or 0.0)).lstrip("+")
        parts.append(f"next is {methods[1]}, " + ("level with it" if behind == "0.0" else f"{behind} points behind"))
    return "; ".join(parts) or "There is no reference to compare it with"


def _between(results: Mapping[str, Any], best: str, protocol: str) -> Iterator[Html]:
    """A line from the lowest to the highest of pretrained, best single model, best and individual, with all of them on it."""
    single = next((label for label in ranked(results, protocol) if is_one_model(results, label)), None)
    kinds = {PRETRAINED: "reference", single: "single", best: "best", INDIVIDUAL: "reference"}
    found = {label: acc for label in kinds if label and (acc := accuracy(results, label, protocol)) is not None}
    low, high = min(found.values()), max(found.values())
    if high <= low:
        return
    drawn = [tag("line", x1="0%", x2="100%", y1=9, y2=9, class_="grid-line")]
    for label, acc in found.items():
        x = percent(100 * (acc - low) / (high - low))
        told = tag("title", f"{label} {percentage(acc)}%")
        if label == best:
            drawn.append(tag("line", x1="0%", x2=x, y1=9, y2=9, class_="reached"))
            drawn.append(tag("circle", told, cx=x, cy=9, r=6, class_="mark"))
        else:
            drawn.append(tag("line", told, x1=x, x2=x, y1=3, y2=15, class_=f"stop {kinds[label]}"))
    ends = {acc: "best" if label == best else label for label, acc in found.items() if acc in (low, high)}
    drawn.append(tag("text", f"{ends[low]} {percentage(low)}", x="0%", y=30, class_="tick"))
    drawn.append(tag("text", f"{ends[high]} {percentage(high)}", x="100%", y=30, text_anchor="end", class_="tick"))
    yield chart(f"{best} between the references", drawn, 34)


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
        yield f"takes {times(method['latency_ratio'])} times the backbone's time for an image"


def _points(distance: float) -> str:
    shown = difference(distance)
    return "level with" if shown == "0.0" else f"{shown.lstrip('+-')} points {'above' if distance > 0 else 'below'}"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
