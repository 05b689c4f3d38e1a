"""Images that a table names: CSV or lines of JSON with a file and a label, such as the metadata of an ImageFolder."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from mingle_edge.core.errors import FileError, ImageFolderError, shown
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.class_matching import check_numbers, written_classes
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.parquet_columns import LABEL_NAMES
from mingle_edge.files.plain_file import check_plain_file
from mingle_edge.files.text_file import read_text

FILE_NAMES = ("file_name", "path", "filepath", "file_path", "filename", "file", "image", "image_path")
"""What the column of files is called, in order of preference; `file_name` in an ImageFolder."""
METADATA = ("metadata.csv", "metadata.jsonl")
"""What tables of an ImageFolder are called."""
_COLUMNS = 30  # columns in a message


class _Line(NamedTuple):
    table: Path
    number: int
    file: str
    label: Any

    @property
    def where(self) -> str:
        return f"{self.table}: line {self.number}"


class ListedImages:
    """The images of one or more tables, whose paths start from the folder of their table, and their classes."""

    def __init__(
        self, tables: Sequence[Path], source: ImageSource, classes: Sequence[str], root: Path | None = None, part: str = ""
    ) -> None:
        """Read every line and look for every file.

        root: the folder of the data set that no path may leave; None: the user's own table may name files anywhere.
        part: the folder in `root` of the split that is read; lines of others are passed over.

        Raises:
            ImageFolderError: a table that cannot be read, without such columns, a line without a file or label, a file that is
                not there or named twice with different labels, or labels that are not the task's classes.
        """
        self.taken = ", ".join(table.name for table in tables)
        self.skipped: dict[str, int] = {}
        lines: list[_Line] = []
        self._paths: list[Path] = []
        seen: dict[Path, Any] = {}
        for line in itertools.chain.from_iterable(_lines(table, source) for table in tables):
            path = _place(line, root)
            if root is not None and not path.is_relative_to(root / part):
                self._skip("of other splits")
            elif path not in seen:
                _check_file(path, line)
                seen[path] = line.label
                self._paths.append(path)
                lines.append(line)
            elif seen[path] == line.label:
                self._skip("named twice")
            else:
                raise ImageFolderError(
                    f"{line.where} gives {shown(line.file)} the label {shown(line.label)}, and an earlier line "
                    f"{shown(seen[path])}; an image has one class: keep one line"
                )
        self.labels = _class_numbers(lines, classes) if lines else []

    def paths(self, numbers: Sequence[int], progress: Progress = silent) -> list[Path]:
        """Return files of the images with these numbers."""
        return [self._paths[number] for number in numbers]

    def skip_others(self, images: Sequence[Path]) -> None:
        """Count those of all images of a folder that no table names."""
        self._skip("in no table", len(set(images) - set(self._paths)))

    def _skip(self, reason: str, count: int = 1) -> None:
        if count:
            self.skipped[reason] = self.skipped.get(reason, 0) + count


def has_labels(table: Path, source: ImageSource) -> bool:
    """Say whether a table has a column of labels. Raises `ImageFolderError`."""
    columns = next(_rows(table), (0, {}))[1]
    return source.label is not None or any(name in columns for name in LABEL_NAMES)


def _lines(table: Path, source: ImageSource) -> Iterator[_Line]:
    columns: tuple[str, ...] = ()
    for number, row in _rows(table):
        if not columns:
            file_column = _column(table, list(row), source.image, FILE_NAMES, "image")
            others = [name for name in row if name != file_column]
            columns = file_column, _column(table, others, source.label, LABEL_NAMES, "label")
            continue
        file, label = (row.get(column) for column in columns)
        if not isinstance(file, str) or not file.strip():
            raise ImageFolderError(f"{table}: line {number} has no {columns[0]}; name a file, or remove the line")
        if label is None or label == "" or not isinstance(label, str | int) or isinstance(label, bool):
            rule = f"is {shown(label)}, no name or whole number" if label else "is missing"
            raise ImageFolderError(f"{table}: line {number}: {columns[1]} {rule}; give a label, or remove the line")
        yield _Line(table, number, file.strip(), label)


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of a line and its values by column, after what has the columns alone."""
    try:
        text = read_text(table)
    except FileError as error:
        raise ImageFolderError(str(error)) from error
    if table.suffix == ".jsonl":
        columns: dict[str, Any] | None = None
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                row = _json_object(table, number, line)
                if columns is None:
                    yield 0, (columns := row)
                yield number, row
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if table.suffix == ".tsv" else ",", strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names):
            raise ImageFolderError(f"{table}: line 1 names a column twice ({_listed(names)}); name each once")
        yield 0, dict.fromkeys(names)
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                raise ImageFolderError(
                    f"{table}: line {reader.line_num} has {len(values)} values, and line 1 names {len(names)} columns; correct "
                    "it, with quotes around values that hold a comma"
                )
            yield reader.line_num, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise ImageFolderError(f"{table}: line {reader.line_num} is no valid CSV ({error}); correct it") from error


def _json_object(table: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ImageFolderError(f"{table}: line {number} is no valid JSON ({error}); correct it") from error
    if not isinstance(value, dict):
        raise ImageFolderError(f"{table}: line {number} is {shown(value)}, no JSON object; write one with a file and a label")
    return value


def _column(table: Path, columns: list[str], named: str | None, usual: Sequence[str], what: str) -> str:
    if named is not None:
        if named in columns:
            return named
        raise ImageFolderError(f"{table}: there is no {what} column {shown(named)}; the columns are {_listed(columns)}")
    found = next((name for name in usual if name in columns), None)
    if found is None:
        raise ImageFolderError(
            f"{table} has no column that may be the {what} (usual are {', '.join(usual)}); name it: {what} = ...; the first "
            f"line has the columns {_listed(columns)}"
        )
    return found


def _place(line: _Line, root: Path | None) -> Path:
    """Return the file that a line names. From a data set of other people, none outside of it."""
    parts = PurePosixPath(line.file).parts
    if "\0" in line.file:
        raise ImageFolderError(f"{line.where} names {shown(line.file)}, which no file can be called; correct it")
    if root is not None and (".." in parts or line.file.startswith("/") or PureWindowsPath(line.file).drive):
        raise ImageFolderError(
            f"{line.where} names {shown(line.file)}, which leaves the folder of its data set; name files below it"
        )
    return line.table.parent.joinpath(line.file)


def _check_file(path: Path, line: _Line) -> None:
    try:
        check_plain_file(path)
    except FileError as error:
        raise ImageFolderError(f"{line.where} names {path}, which {error.reason}") from error


def _class_numbers(lines: Sequence[_Line], classes: Sequence[str]) -> list[int]:
    labels = [line.label for line in lines]
    where = str(lines[0].table)
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        raise ImageFolderError(f"{where}: some labels are numbers and some are text; write all as one or the other")
    if kinds == {int}:
        check_numbers(labels, classes, where)
        return labels
    return written_classes(labels, classes, where)


def _listed(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - _COLUMNS} more" if len(columns) > _COLUMNS else ""
    return (", ".join(shown(name) for name in columns[:_COLUMNS]) or "none") + more
