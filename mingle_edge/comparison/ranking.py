"""The order of methods in a comparison, and which of them lead.

What is read here and in all that shows a comparison is the object in `results.json`: percentages from 0 to 100, sizes in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mingle_edge.comparison.registry import REFERENCES
from mingle_edge.core.wording import finite

PRETRAINED, INDIVIDUAL = REFERENCES
"""Labels of the two references: the backbone for every task, and every task's own model."""
_ONE_MODEL = 1.001  # times the backbone's bytes: what still is a single model


def accuracy(results: Mapping[str, Any], label: str, protocol: str, name: str = "acc") -> float | None:
    """Return a figure of the table, in percent; name: `acc`, `bwt` or `fwt`, or one of them with `_std`."""
    return finite(results["accuracy"].get(label, {}).get(protocol, {}).get(name))


def methods(results: Mapping[str, Any]) -> list[str]:
    """Return the labels that were compared, in the order of the results; the references are none of them."""
    return [label for label in results["methods"] if label not in REFERENCES]


def ordered(results: Mapping[str, Any]) -> list[str]:
    """Return labels as tables show them: pretrained, the methods from the least to the most accurate, individual.

    By the first protocol there is. Methods none of whose orders finished follow the pretrained backbone.
    """
    first = results["protocols"][0]
    by_accuracy = sorted(
        methods(results), key=lambda label: acc if (acc := accuracy(results, label, first)) is not None else -math.inf
    )
    return [label for label in (PRETRAINED, *by_accuracy, INDIVIDUAL) if label in results["methods"]]


def ranked(results: Mapping[str, Any], protocol: str) -> list[str]:
    """Return the methods that finished, references left out, from the most to the least accurate."""
    measured = {label: acc for label in methods(results) if (acc := accuracy(results, label, protocol)) is not None}
    return sorted(measured, key=lambda label: -measured[label])


def is_one_model(results: Mapping[str, Any], label: str) -> bool:
    """Say whether the method stores no more than one backbone, as averages do and experts do not."""
    backbone, stored = (results["methods"].get(name, {}).get("stored_bytes") for name in (PRETRAINED, label))
    return backbone is not None and stored is not None and stored <= _ONE_MODEL * backbone


def leading(results: Mapping[str, Any], count: int = 4) -> list[str]:
    """Choose methods worth a closer look: the best of each protocol, the best single model, then the next best, at most
    `count`.
    """
    first = ranked(results, results["protocols"][0])
    single = [label for label in first if is_one_model(results, label)]
    best = [label for protocol in results["protocols"] for label in ranked(results, protocol)[:1]]
    return list(dict.fromkeys([*first[:1], *single[:1], *best, *first]))[:count]


def timed_in(results: Mapping[str, Any]) -> str:
    """Return what ran where times were taken, as in `PyTorch on the CPU`."""
    device = results["machine"].get("device")
    return "PyTorch" if device is None else f"PyTorch on {'the CPU' if device == 'cpu' else device}"


def orders_finished(results: Mapping[str, Any], label: str) -> int:
    """Return task orders behind the figures of a method on clean images: those of which no cell failed."""
    failed = [cell["order"] for cell in results["failed"] if cell["method"] == label and cell["corruption"] is None]
    return sum(order not in failed for order in results["orders"])


def order_name(results: Mapping[str, Any], order: Sequence[str]) -> str:
    """Return `order 3`, counted from 1, for the order of a failed cell; `tuning` for the one that is not reported."""
    return f"order {results['orders'].index(order) + 1}" if order in results["orders"] else "tuning"
