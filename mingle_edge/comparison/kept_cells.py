"""Finished cells on disk, by the hash of all they depend on, so that nothing is computed twice and a kill loses one cell."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mingle_edge.comparison.cell import CellResult
from mingle_edge.durable import why_not_written
from mingle_edge.errors import ComparisonError, FileError, OutputError
from mingle_edge.output_path import write_output
from mingle_edge.protocols import PROTOCOLS
from mingle_edge.text_file import read_json


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
        return CellResult(**record) if _is_result(record) else None

    def keep(self, key: str, result: CellResult) -> None:
        """Write a finished cell, whole or not at all. Raises `OutputError`."""
        write_output(self._path(key), json.dumps(asdict(result)))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _is_result(record: Any) -> bool:
    """Say whether a JSON value is all of a `CellResult`, of as many tasks in every part."""
    if not isinstance(record, dict) or record.keys() != {field.name for field in fields(CellResult)}:
        return False
    seconds, accuracy, routes = record["seconds"], record["accuracy"], record["routes"]
    if not isinstance(seconds, list) or not isinstance(accuracy, dict) or accuracy.keys() != set(PROTOCOLS):
        return False
    count = len(seconds)
    return (
        all(_is_number(value) for value in (*seconds, record["stored_bytes"], record["active_bytes"]))
        and (record["latency_ratio"] is None or _is_number(record["latency_ratio"]))
        and all(_is_matrix(rows, count + 1, count, unmeasured=True) for rows in accuracy.values())
        and (routes is None or _is_matrix(routes, count, count + 1))
        and _is_matrix(record["confusion"], count, count)
    )


def _is_matrix(rows: Any, height: int, width: int, *, unmeasured: bool = False) -> bool:
    return (
        isinstance(rows, list)
        and len(rows) == height
        and all(isinstance(row, list) and len(row) == width for row in rows)
        and all(_is_number(value) or (unmeasured and value is None) for row in rows for value in row)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
