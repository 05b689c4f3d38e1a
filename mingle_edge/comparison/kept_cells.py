"""Finished cells on disk, by the hash of all they depend on, so that nothing is computed twice and a kill loses one cell."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mingle_edge.comparison.cell import CellResult
from mingle_edge.core.errors import ComparisonError, FileError, OutputError
from mingle_edge.evaluation.protocols import PROTOCOLS
from mingle_edge.files.atomic_files import why_not_written
from mingle_edge.files.output_path import write_output
from mingle_edge.files.text_file import read_json
from mingle_edge_runtime.bundle.json_record import RecordError, read_record


class KeptCells:
    """The folder of finished cells of a comparison. Raises `OutputError` where it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: {why_not_written(error)}") from error

    def load(self, key: str) -> CellResult | None:
        """Return a finished cell; None if it was never finished or its file is damaged.

        Raises:
            ComparisonError: it is there, and this user may not read it; to compute it again would be no help.
        """
        try:
            record = read_json(self._path(key))
        except FileError as error:
            if isinstance(error.__cause__, PermissionError):
                raise ComparisonError(str(error)) from error
            return None
        return _whole(record)

    def keep(self, key: str, result: CellResult) -> None:
        """Write a finished cell, whole or not at all. Raises `OutputError`."""
        write_output(self._path(key), json.dumps(asdict(result)))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _whole(value: Any) -> CellResult | None:
    """Return the result that a JSON value holds, of as many tasks in every part; None where it holds none."""
    try:
        result = read_record(CellResult, value)
    except RecordError:
        return None
    count = len(result.seconds)
    tables = [(rows, count + 1, count) for rows in result.accuracy.values()] + [(result.confusion, count, count)]
    if result.routes is not None:
        tables.append((result.routes, count, count + 1))
    if len(result.stored_after) != count or len(result.multiply_adds) not in (0, count + 1):
        return None
    fits = all(len(rows) == height and {len(row) for row in rows} <= {width} for rows, height, width in tables)
    return result if fits and result.accuracy.keys() == set(PROTOCOLS) else None
