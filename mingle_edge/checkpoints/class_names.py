"""The names of classes that a checkpoint itself tells, and their order."""

from __future__ import annotations

from collections.abc import Sequence

from mingle_edge.core.errors import TaskFileError, shown


def check_order(given: Sequence[str], stored: Sequence[str], where: str) -> None:
    """Check that the classes of a task file are those that a head's rows belong to, in their order.

    where: what names `stored`, for the message.

    Raises:
        TaskFileError: naming the first class that differs.
    """
    if len(given) != len(stored):
        raise TaskFileError(f"{where} names {len(stored)} classes, the task file {len(given)}; name those of the head's rows")
    for number, (ours, theirs) in enumerate(zip(given, stored, strict=True)):
        if ours != theirs:
            raise TaskFileError(
                f"{where} says that row {number} of the head is {shown(theirs)}, the task file's class {number} is "
                f"{shown(ours)}; name the classes as there, in that order"
            )
