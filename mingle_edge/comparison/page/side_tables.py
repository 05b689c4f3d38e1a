"""The tables of the page beside accuracy: who finds an image's task, what more tasks cost, what is still known of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mingle_edge.comparison.page.tables import confused
from mingle_edge.comparison.ranking import PRETRAINED, accuracy, ordered
from mingle_edge.comparison.table import PLAIN_BACKBONE
from mingle_edge.core.wording import MISSING, difference, finite, megabytes, percentage, times

IDENTIFICATION_HEAD = ["", "own task", "no task", "most often elsewhere"]
KNOWLEDGE_HEAD = ["", "merged", "never merged", "gained", "H-score", "to no task"]

Results = Mapping[str, Any]


def identification(results: Results) -> list[list[str]]:
    """Return, of every method that sends an image to one task, the best first: shares in percent, and what is confused."""
    names = [task["name"] for task in results["tasks"]]
    shares = results["identified"]
    labels = sorted(
        (label for label in ordered(results) if label in shares), key=lambda label: -(finite(shares[label]["own"]) or 0)
    )
    return [
        [
            label,
            f"{percentage(shares[label]['own'])}% to own task",
            f"{percentage(shares[label]['unclaimed'])}% to none",
            confused(names, [*names, PLAIN_BACKBONE], results["routes"].get(label, ())) or MISSING,
        ]
        for label in labels
    ]


def growth_head(results: Results) -> list[str]:
    """Return the head of the table of growth."""
    last = len(results["tasks"])
    return ["", "MB, 1 task", f"MB, {last}", "MB a task", "x, 1 task", f"x, {last}", "% a task"]


def growth(results: Results) -> list[list[str]]:
    """Return bytes stored and multiply-adds of one image after the first and the last task, and what a task adds."""
    rows = []
    for label in ordered(results):
        grown = results["growth"].get(label, {})
        stored, ratios = grown.get("stored_bytes") or [None], grown.get("multiply_adds") or [None]
        added, more = grown.get("stored_bytes_per_task"), finite(grown.get("multiply_adds_per_task"))
        if len(stored) > 1:
            percent = difference(None if more is None else 100 * more)
            rows.append([label, *map(megabytes, (stored[0], stored[-1], added)), times(ratios[0]), times(ratios[-1]), percent])
    return rows


def knowledge(results: Results) -> list[list[str]]:
    """Return accuracy on tasks never merged beside that on merged ones, in percent, the highest H-score first."""
    known = results["unmerged"]
    before = finite(known.get(PRETRAINED, {}).get("acc"))
    rows = []
    for label in sorted(
        (label for label in ordered(results) if label in known), key=lambda label: -(finite(known[label]["h_score"]) or 0)
    ):
        now = finite(known[label]["acc"])
        gained = difference(now - before) if now is not None and before is not None else MISSING
        merged = percentage(accuracy(results, label, results["protocols"][0]))
        rows.append(
            [label, merged, percentage(now), gained, percentage(known[label]["h_score"]), percentage(known[label]["unclaimed"])]
        )
    return rows
