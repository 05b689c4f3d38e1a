"""Finished cells on disk, by the hash of all they depend on, so that nothing is computed twice and a kill loses one cell."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from mingle_edge.comparison.cell import CellResult
from mingle_edge.durable import write_text


class KeptCells:
    """The folder of finished cells of a comparison."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: str) -> CellResult | None:
        """A finished cell; None if it was never finished or its file is damaged."""
        try:
            return CellResult(**json.loads(self._path(key).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, key: str, result: CellResult) -> None:
        """Write a finished cell, whole or not at all."""
        write_text(self._path(key), json.dumps(asdict(result)))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"
