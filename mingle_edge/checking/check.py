"""Checking a task file without merging: everything that a merge would find out at once, and what its tasks are like."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from mingle_edge.checking.report import CheckReport, Findings
from mingle_edge.checking.task_file_faults import read_all_faults
from mingle_edge.core.progress import Progress, silent


def check(task_file: str | Path, *, progress: Progress = silent) -> CheckReport:
    """Read everything that a task file names, as `merge` does before its work, and return all that is wrong or strange with it.

    Nothing is written but what is downloaded, or copied out of parquet files, on the way. Tensors are read one at a time.

    Args:
        task_file: TOML, as README.md and docs/data.md describe it.
        progress: is told how far the work is.

    Returns:
        A report whose `refused` says whether `merge` would refuse the file, and whose `faults` say why, of all tasks at once.
        Nothing that is wrong with the file raises an error.
    """
    started = time.perf_counter()
    faults = Findings()
    file = read_all_faults(Path(task_file), faults)
    if file.backbone is None and not file.tasks:
        report = CheckReport(file.path, faults, [])
    else:
        from mingle_edge.checking.inputs_check import check_inputs

        report = check_inputs(file, faults, progress)
    return replace(report, seconds=round(time.perf_counter() - started, 3))
