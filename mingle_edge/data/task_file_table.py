"""A table of a task file, checked value by value."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mingle_edge.core.errors import MOST_SHOWN, FileError, HubError, TaskFileError, shown
from mingle_edge.data.hub import is_hub_reference, parse_hub_reference, way_to_path
from mingle_edge.files.plain_file import check_plain_file, find_file

MOST_CHARACTERS = 1000
"""Of a class name or template; a text tower reads some 70 words, and its tokenizer takes hours for one word of a megabyte."""


class Table:
    """One table of a task file, with errors that say where in the file they are."""

    def __init__(self, path: Path, where: str, values: Mapping[str, Any]) -> None:
        self.path, self.where, self.values = path, where, values

    def error(self, key: str, rule: str) -> TaskFileError:
        return TaskFileError(f"{self.path}: {f'{self.where} ' if self.where else ''}{key} {rule}")

    def check_keys(self, known: tuple[str, ...]) -> None:
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
                raise self.error(key if len(key) <= MOST_SHOWN else shown(key), f"is not a known key; {hint}")

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        """Return a value of a given type, or its default; without a default it must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise self.error(key, "is missing; add it")
        if not isinstance(value, kind) or isinstance(value, bool):
            names: dict[type, str] = {dict: "a table", list: "a list", str: "a string", int: "a whole number"}
            raise self.error(key, f"must be {names[kind]}, not {shown(value)}")
        return value

    def string(self, key: str) -> str:
        text: str = self.value(key, str)
        if not text.strip():
            raise self.error(key, "is empty; fill it in")
        return text

    def place(self, key: str) -> str:
        """Return a path, or what may be one, with `~` standing for the user's home."""
        return os.path.expanduser(self.string(key))

    def existing(self, key: str, *, folder: bool = False) -> Path:
        """Return the path of a plain file or, where `folder` allows it, of a folder."""
        path = self.path.parent / self.place(key)
        status = self.status(key, path)
        if status is None:
            raise self.error(key, f"names {path}, which does not exist; {way_to_path(self.string(key))}")
        if not (folder and stat.S_ISDIR(status.st_mode)):
            try:
                check_plain_file(path)
            except FileError as error:
                raise self.error(key, f"names {path}, which {error.reason}") from error
        return path

    def status(self, key: str, path: Path) -> os.stat_result | None:
        """Return what a path leads to; None where there is nothing."""
        try:
            return find_file(path)
        except FileError as error:
            raise self.error(key, f"names {shown(str(path))}, which {error.reason}") from error

    def is_folder(self, key: str, path: Path) -> bool:
        """Say whether a path leads to a folder."""
        status = self.status(key, path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def on_hub(self, key: str, text: str, *, dataset: bool = False) -> bool:
        """Say whether a value names something on the hub; it must then be well formed and of the right kind."""
        if not is_hub_reference(text):
            return False
        try:
            reference = parse_hub_reference(text)
        except HubError as error:
            raise self.error(key, f"names nothing on the hub: {error}") from error
        if reference.dataset != dataset:
            raise self.error(key, f"is {shown(text)}, the {reference}, but must name a {'data set' if dataset else 'model'}")
        return True

    def strings(self, key: str, values: list[Any], what: str) -> list[str]:
        """Return a list of different strings that say something."""
        if not values:
            raise self.error(key, f"holds no {what}; name at least one")
        seen: set[str] = set()
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise self.error(key, f"holds {shown(value)}, which is no {what}; use strings that are not empty")
            if len(value) > MOST_CHARACTERS:
                raise self.error(
                    key, f"holds {shown(value)} of {len(value)} characters; shorten it to {MOST_CHARACTERS} at most"
                )
            if value in seen:
                raise self.error(key, f"holds the {what} {shown(value)} twice; keep one")
            seen.add(value)
        return values
