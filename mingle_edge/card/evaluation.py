"""The figures of `evaluate --json` that a model card shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from mingle_edge.core.errors import FileError
from mingle_edge.files.text_file import read_text
from mingle_edge_runtime.bundle.json_record import RecordError, read_record

PROTOCOLS = {"P1": "labels told", "P2": "task told", "P3": "nothing told"}
"""What the application says of each image."""
_WRITE_ONE = "write one with `mingle-edge evaluate MERGED TASKS.toml --json FILE`"


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent on labeled test images, of every task in the same order."""

    tasks: tuple[str, ...]
    final: dict[str, tuple[float, ...]]
    """by protocol"""
    images: tuple[int, ...]
    own_route: tuple[float, ...]
    """images that were routed to their own task, in percent; empty where there is no router"""

    def rows(self, tasks: Sequence[str]) -> list[Evaluated]:
        """Return what was measured of these tasks, in their order."""
        at = {name: i for i, name in enumerate(self.tasks)}
        return [
            Evaluated(
                name,
                self.images[at[name]],
                {protocol: self.final[protocol][at[name]] for protocol in PROTOCOLS},
                self.own_route[at[name]] if self.own_route else None,
            )
            for name in tasks
        ]


@dataclass(frozen=True)
class Evaluated:
    """What was measured of one task, in percent."""

    task: str
    images: int
    accuracy: dict[str, float]
    """by protocol"""
    own_route: float | None


def read_evaluation(path: str | PathLike[str], tasks: Sequence[str]) -> list[Evaluated]:
    """Read the report at `path` and return the figures of these tasks, in their order.

    Raises:
        FileError: it cannot be read, is no such report, or lacks one of the tasks.
    """
    path = Path(path)
    try:
        report = read_record(Evaluation, json.loads(read_text(path)))
    except RecordError as error:
        raise FileError(path, f"is no report of an evaluation: {error}; {_WRITE_ONE}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"is not valid JSON: {error}; {_WRITE_ONE}") from error
    columns = [report.images, *([report.own_route] if report.own_route else [])]
    columns += [report.final.get(protocol, ()) for protocol in PROTOCOLS]
    if any(len(column) != len(report.tasks) for column in columns):
        raise FileError(path, f"is no report of an evaluation: a column has not one figure for each task; {_WRITE_ONE}")
    if missing := [name for name in tasks if name not in report.tasks]:
        raise FileError(
            path,
            f"is of the tasks {', '.join(report.tasks)}, and the bundle also has {', '.join(missing)}; evaluate the merged "
            "model that it was exported from",
        )
    return report.rows(tasks)
