"""The one rule for names of tasks, wherever they are read: they become names of files."""

from __future__ import annotations

import re
from collections.abc import Iterable

TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def fault_in_names(names: Iterable[str]) -> str | None:
    """Return what is wrong with the first `tasks[i].name` that no file may have or that repeats another, if any."""
    seen: set[str] = set()
    for i, name in enumerate(names):
        if not TASK_NAME.fullmatch(name):
            return f"tasks[{i}].name is {name[:80]!r}, must match {TASK_NAME.pattern}"
        if name.lower() in seen:
            return f"tasks[{i}].name repeats {name!r}"
        seen.add(name.lower())
    return None
