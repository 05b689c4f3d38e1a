"""Choosing parameters on the validation part: the same number of trials for every method, on an order that is not reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mingle_edge.comparison.cell import CellResult
from mingle_edge.comparison.entries import Entry
from mingle_edge.comparison.registry import MethodSpec
from mingle_edge.evaluation.metrics import average_accuracy
from mingle_edge.evaluation.protocols import HEAD_GIVEN


@dataclass
class Tuning:
    """The trials of one entry and what came out: ACC in percent under P1, after all tasks, on the validation part."""

    entry: Entry
    trials: list[Mapping[str, Any]]  # complete parameters
    acc: list[float | None] = field(default_factory=list)  # None where the trial failed

    def record(self, result: CellResult | None) -> None:
        """Take in the next trial's result."""
        last = [value for value in result.accuracy[HEAD_GIVEN][-1] if value is not None] if result is not None else []
        self.acc.append(average_accuracy(last) if last else None)

    @property
    def chosen(self) -> Mapping[str, Any]:
        """Return the parameters with the highest accuracy; of equals the first, the entry's own where every trial failed."""
        finished = [(acc, trial) for acc, trial in zip(self.acc, self.trials, strict=True) if acc is not None]
        return max(finished, key=lambda pair: pair[0])[1] if finished else self.entry.parameters

    def to_json(self) -> dict[str, Any]:
        """Return the record in results.json: of each trial only what it changes."""
        varied = {key for trial in self.trials for key in trial if trial[key] != self.trials[0].get(key)}

        def shown(parameters: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in parameters.items() if key in varied}

        trials = [{"parameters": shown(t), "acc": acc} for t, acc in zip(self.trials, self.acc, strict=True)]
        return {"trials": trials, "chosen": shown(self.chosen)}


def trials(entries: Sequence[Entry], specs: Mapping[str, MethodSpec]) -> list[Tuning]:
    """Return the trials of every entry whose method has something to tune; what the user wrote stays as it is."""
    return [
        Tuning(entry, [{**entry.parameters, **change, **entry.given} for change in specs[entry.method].grid])
        for entry in entries
        if specs[entry.method].grid
    ]
