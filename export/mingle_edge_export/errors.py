"""The one error tree of the export. Every message names the thing, the rule, the value and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mingle_edge_export.report import PartParity, TaskAccuracy


class ExportError(Exception):
    """Base of everything the export raises on purpose."""


class OptionError(ExportError):
    """An option does not fit the merged model: a `top_k` out of range, a task named twice, no task at all."""


class OutputError(ExportError):
    """The bundle's folder is in use or cannot be written."""


class DiskSpaceError(OutputError):
    """The disk has no room for the bundle."""


class ParityError(ExportError):
    """The graphs do not compute what the PyTorch implementation computes."""

    def __init__(self, message: str, parts: Sequence[PartParity] = ()) -> None:
        super().__init__(message)
        self.parts = parts
        """every part that was compared"""


class AccuracyError(ParityError):
    """The bundle gets fewer labeled images right than is allowed."""

    def __init__(self, message: str, accuracy: Sequence[TaskAccuracy] = ()) -> None:
        super().__init__(message)
        self.accuracy = accuracy
