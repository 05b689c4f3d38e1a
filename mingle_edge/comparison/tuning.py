"""Choosing parameters on the validation part: the same number of trials for every method, on an order that is not reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mingle_edge.comparison.cell import CellResult
from mingle_edge.comparison.entries import Entry
from mingle_edge.comparison.registry import SPECS
from mingle_edge.evaluation.metrics import average_accuracy
from mingle_edge.evaluation.protocols import HEAD_GIVEN


@dataclass
class Tuning:
    """The trials of one entry and what came out: ACC in percent under P1, after all tasks, on the validation part."""

    own: Mapping[str, Any]  # the entry's parameters
    trials: list[tuple[Mapping[str, Any], float | None]] = field(default_factory=list)  # None where the trial failed

    def record(self, parameters: Mapping[str, Any], result: CellResult | None) -> None:
        """Take in a trial's result."""
        last = [value for value in result.accuracy[HEAD_GIVEN][-1] if value is not None] if result is not None else []
        self.trials.append((parameters, average_accuracy(last) if last else None))

    @property
    def chosen(self) -> Mapping[str, Any]:
        """Return the parameters with the highest accuracy; of equals the first, the entry's own where every trial failed."""
        finished = [(acc, parameters) for parameters, acc in self.trials if acc is not None]
        return max(finished, key=lambda pair: pair[0])[1] if finished else self.own

    def to_json(self) -> dict[str, Any]:
        """Return the record in results.json: of each trial only what it changes."""
        first, _ = self.trials[0]
        varied = {key for parameters, _ in self.trials for key in parameters if parameters[key] != first.get(key)}

        def shown(parameters: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in parameters.items() if key in varied}

        return {"trials": [{"parameters": shown(p), "acc": acc} for p, acc in self.trials], "chosen": shown(self.chosen)}


def trials(entry: Entry) -> list[dict[str, Any]]:
    """Return the parameters to be tried for an entry, if its method has something to tune; what is written stays."""
    return [{**entry.parameters, **change, **entry.given} for change in SPECS[entry.method].grid]
