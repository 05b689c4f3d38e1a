"""Every fault of a task file, and what can be read of it all the same.

The reader of task files stops at the first fault. Here each key is read alone, beside sound ones in place of all others, and
then those that are sound together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingle_edge.checking.report import Findings
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import BackboneSource, TaskFile, TaskSource, parse_task_file, read_document

_BACKBONE = {"model": ".", "weights": "tag"}
_TASK = {"name": "task", "weights": ".", "seeds": "."}
_BESIDE = {"seeds_per_class": {"seeds": "<class>/*"}}
"""What must stand beside a key for it to be allowed."""
_TOGETHER = ("templates", "seeds_per_class")
"""Keys that may be wrong because of another one; a task is read without them where its sound keys do not go together."""

Table = Mapping[str, Any]
Read = Callable[[Table], TaskFile]


@dataclass(frozen=True)
class ReadableTask:
    """A task, with something that says nothing in place of what its broken keys say."""

    source: TaskSource
    broken: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ReadableTaskFile:
    """What can be read of a task file."""

    path: Path
    backbone: BackboneSource | None
    settings: Settings
    tasks: list[ReadableTask]


def read_all_faults(path: Path, faults: Findings) -> ReadableTaskFile:
    """Read a task file as far as it goes, and add all its faults to `faults`."""
    try:
        document = read_document(path)
    except TaskFileError as error:
        faults.add(None, "task file", error)
        return ReadableTaskFile(path, None, Settings(), [])
    try:
        whole = parse_task_file(path, document)
    except TaskFileError:
        return _read_by_parts(path, document, faults)
    return ReadableTaskFile(path, whole.backbone, Settings.from_mapping(whole.settings), list(map(ReadableTask, whole.tasks)))


def _read_by_parts(path: Path, document: Table, faults: Findings) -> ReadableTaskFile:
    sound: dict[str, Any] = {"backbone": _BACKBONE, "task": [_TASK]}

    def read(change: Table) -> TaskFile:
        return parse_task_file(path, sound | dict(change))

    for key in document.keys() - {"backbone", "settings", "task"}:
        with faults.of(None, "task file"):
            read({key: document[key]})
    backbone = settings = None
    if isinstance(table := document.get("backbone"), dict):
        backbone, _ = _read_table(table, _BACKBONE, lambda table: read({"backbone": table}), faults, None, "backbone")
    else:
        with faults.of(None, "backbone"):
            parse_task_file(path, {"task": [_TASK]} | {key: document[key] for key in document if key == "backbone"})
    if isinstance(table := document.get("settings", {}), dict):
        settings, _ = _read_table(table, {}, lambda table: read({"settings": table}), faults, None, "settings")
    else:
        with faults.of(None, "settings"):
            read({"settings": document["settings"]})
    return ReadableTaskFile(
        path,
        backbone.backbone if backbone else None,
        Settings.from_mapping(settings.settings) if settings else Settings(),
        _read_tasks(path, document, sound, faults),
    )


def _read_tasks(path: Path, document: Table, sound: Table, faults: Findings) -> list[ReadableTask]:
    tables = document.get("task")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        with faults.of(None, "task file"):
            parse_task_file(path, {"backbone": _BACKBONE} | {key: document[key] for key in document if key == "task"})
        return []
    tasks: list[ReadableTask] = []
    named: list[Table] = []  # sound tasks of the names so far
    for number, table in enumerate(tables):
        before = [_TASK | {"name": f"number-{other + 1}"} for other in range(number)]

        def read(table: Table, before: Sequence[Table] = before) -> TaskFile:
            return parse_task_file(path, {**sound, "task": [*before, table]})

        name = table.get("name")
        said = name if isinstance(name, str) else f"number {number + 1}"
        file, broken = _read_table(table, _TASK | {"name": f"number-{number + 1}"}, read, faults, said, "task file")
        if file is not None:
            tasks.append(ReadableTask(file.tasks[-1], broken))
        if "name" not in broken:
            try:
                parse_task_file(path, {**sound, "task": [*named, _TASK | {"name": name}]})
                named.append(_TASK | {"name": name})
            except TaskFileError as error:
                faults.add(said, "task file", error)
    return tasks


def _read_table(
    table: Table, sound: Table, read: Read, faults: Findings, task: str | None, part: str
) -> tuple[TaskFile | None, frozenset[str]]:
    """Read a table key by key, and then what is sound of it; return what came of that, and the keys that are broken."""
    name = {"name": table["name"]} if "name" in sound and _is_sound(read, {**sound, "name": table.get("name")}) else {}
    others = dict(sound) | name  # with its name, by which messages call a task
    broken = set()
    for key in [*table, *(key for key in sound if key not in table)]:
        alone = {other: value for other, value in others.items() if other != key} | _BESIDE.get(key, {})
        try:
            read(alone | ({key: table[key]} if key in table else {}))
        except TaskFileError as error:
            faults.add(task, part, error)
            broken.add(key)
    kept = {key: value for key, value in others.items() if key in broken} | {
        key: value for key, value in table.items() if key not in broken
    }
    for left_out in ((), *((key,) for key in _TOGETHER), _TOGETHER):
        try:
            return read({key: value for key, value in kept.items() if key not in left_out}), frozenset(broken)
        except TaskFileError as error:
            faults.add(task, part, error)
    return None, frozenset(broken)


def _is_sound(read: Read, table: Table) -> bool:
    try:
        read(table)
    except TaskFileError:
        return False
    return True
