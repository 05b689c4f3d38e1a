"""A check as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mingle_edge.cli.check.tables import Figures, figures, headline, outside, read
from mingle_edge.pages.page import record, render

if TYPE_CHECKING:
    from mingle_edge.checking.report import CheckReport

_TINTS = 20


def page(report: CheckReport) -> str:
    """Return the whole document."""
    tables = list(figures(report))
    return render(
        "check.html",
        title=f"Check of {report.path.name}",
        headline=headline(report),
        refused=report.refused,
        faults=report.faults,
        warnings=report.warnings,
        tiles=_tiles(report),
        tables=[(table, _tints(table)) for table in tables if not table.fold],
        by_depth=[(table, _tints(table)) for table in tables if table.fold],
        details={
            "Checkpoints": ("Tensors beside the towers", outside(report)),
            "Calibration images": ("What was read", read(report)),
        },
        record=record({"settings": report.settings, "tower": report.architecture or {}}),
    )


def _tiles(report: CheckReport) -> dict[str, str]:
    tiles = {"merge": "would refuse" if report.refused else "would take it", "tasks": str(len(report.tasks))}
    return tiles | {"faults": str(len(report.faults)), "warnings": str(len(report.warnings))}


def _tints(table: Figures) -> list[list[int]]:
    """Return how dark each cell is, as the numbers of the style sheet's tints; nothing for a table without."""
    return [[round(_TINTS * min(max(share, 0.0), 1.0)) for share in shares] for shares in table.shares.values()]
