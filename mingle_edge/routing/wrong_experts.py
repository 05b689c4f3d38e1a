"""What experts do to a task's seeds, measured when the task is merged: its own, those of older tasks, and none. numpy only.

So the router knows what a wrong route costs, as its fine-tuned model would answer. Experts of later tasks have not seen these
seeds and never will, as nothing of an older task is read again: they are taken to do the harm that older ones did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mingle_edge.routing.statistics import Array

LEAST = 0.01  # of a loss, but for the own expert
MOST = 1e30  # of a logit: larger ones cannot be squared in float64 sums of float32 readers


@dataclass(frozen=True)
class WrongExperts:
    """Of one task's seeds: labels of its fine-tuned model that change, and how large the logits of its own expert are."""

    without_expert: float = 1.0
    """share of labels that change on the plain backbone"""
    wrong_experts: Mapping[str, float] = field(default_factory=dict)
    """older task -> share of labels that change under its expert"""
    largest_logits: tuple[float, ...] = ()
    """of each seed under its own expert and head"""

    def record(self) -> dict[str, Any]:
        """Return what a merged model's index keeps, as `of_record` reads it."""
        return {"routing": asdict(self)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> WrongExperts:
        """Read what `record` wrote; where there is nothing, nothing is known, and every label may change."""
        kept = record.get("routing", {})
        return cls(**kept | {"largest_logits": tuple(kept.get("largest_logits", ()))})


def fault_in_routing(record: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a record that `WrongExperts.of_record` is to read, behind its name; None where nothing is."""
    kept = record.get("routing", {})
    names = {"without_expert", "wrong_experts", "largest_logits"}
    if not isinstance(kept, dict) or not set(kept) <= names:
        return f" must be an object of {', '.join(sorted(names))}"
    wrong, logits = kept.get("wrong_experts", {}), kept.get("largest_logits", [])
    if not isinstance(wrong, dict) or not isinstance(logits, (list, tuple)):
        return ": wrong_experts must be an object, and largest_logits a list"
    if not all(_is_number(share) and 0 <= share <= 1 for share in (kept.get("without_expert", 1.0), *wrong.values())):
        return ": a share is no number from 0 to 1"
    if not all(map(_is_number, logits)):
        return ".largest_logits holds what is no number"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST


def expected_losses(tasks: Sequence[str], seen: Sequence[WrongExperts]) -> Array:
    """Return `[T, T + 1]`: of each task's images the share of labels that change under each expert and, last, under none.

    What changed no label of so few seeds may still change one in a hundred, so that of equal losses the probable task decides.
    Where an expert was never run on a task's seeds, it is taken to change what having none changes and, on top, what wrong
    experts changed beyond that wherever they were run.
    """
    plain = np.array([of_task.without_expert for of_task in seen])
    known = [(t, name, loss) for t, of_task in enumerate(seen) for name, loss in of_task.wrong_experts.items() if name in tasks]
    excess = float(np.mean([loss - plain[t] for t, _, loss in known])) if known else 0.0
    losses = np.repeat(np.minimum(plain + max(excess, 0.0), 1.0)[:, None], len(tasks), axis=1)
    for t, name, loss in known:
        losses[t, list(tasks).index(name)] = loss
    losses = np.asarray(np.maximum(np.concatenate([losses, plain[:, None]], axis=1), LEAST))
    np.fill_diagonal(losses, 0.0)
    return losses
