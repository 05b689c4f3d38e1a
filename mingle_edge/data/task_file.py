"""The task file: TOML that names a backbone, the settings, and the fine-tuned tasks to merge. Reading it needs no torch."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mingle_edge.core.errors import MOST_SHOWN, FileError, HubError, TaskFileError, shown
from mingle_edge.data.hub import is_hub_reference, parse_hub_reference, way_to_path
from mingle_edge.data.image_source import CLASS, WHOLE, ImageSource
from mingle_edge.data.settings import Settings
from mingle_edge.data.weights_folder import SUFFIXES
from mingle_edge.files.plain_file import check_plain_file, find_file
from mingle_edge.files.text_file import read_text
from mingle_edge_runtime.bundle.task_names import TASK_NAME

DEFAULT_TEMPLATES = ("a photo of a {}.",)
SEEDS_PER_CLASS = 5
"""Seeds drawn from labeled images unless the task says otherwise; what the paper uses (arXiv 2505.11883, section 4.1)."""
MOST_SEEDS_PER_CLASS = 1 << 20
MOST_CHARACTERS = 1000
"""Of a class name or template; a text tower reads some 70 words, and its tokenizer takes hours for one word of a megabyte."""

_TABLES = ("backbone", "settings", "task")
_BACKBONE_KEYS = ("model", "weights")
_TASK_KEYS = ("name", "weights", "seeds", "seeds_per_class", "classes", "templates", "head", "test", "tune")
_SOURCE_KEYS = ("files", "image", "label", "share")
_PARQUET_KEYS = ("image", "label")


@dataclass(frozen=True)
class BackboneSource:
    """Where the pretrained model comes from, as the task file says it."""

    model: str  # open_clip name, or on the hub or relative to the task file an open_clip JSON config or Hugging Face folder
    weights: (
        str | None
    )  # a file or folder, on the hub or relative to the task file, or an open_clip tag; None: the folder `model`


@dataclass(frozen=True)
class TaskSource:
    """One fine-tuned model and what belongs to it."""

    name: str
    weights: str  # file or folder, on the hub (`hf://owner/name`) or relative to the task file
    seeds: ImageSource  # a few unlabeled images, or labeled ones of which a few are drawn
    classes: list[str]  # empty: those that its checkpoint names
    templates: list[str]  # with {} for the class name; empty when there is a head
    head: Path | None  # ready-made class embeddings
    test: ImageSource | None  # labeled images that accuracy is measured on
    tune: ImageSource | None = None  # labeled images that parameters of methods are chosen on
    seeds_per_class: int | None = None  # how many seeds are drawn per class; None: `seeds` is a folder, used whole


@dataclass(frozen=True)
class TaskFile:
    """A task file whose every path exists, those on the hub aside. Relative paths start from `path.parent`."""

    path: Path
    backbone: BackboneSource
    settings: dict[str, Any]  # those that are written, of names and values that `Settings` allows
    tasks: list[TaskSource]  # in the order of merging


def read_task_file(path: Path) -> TaskFile:
    """Read and check a task file.

    Raises:
        TaskFileError: naming the file, the table and the key of what is wrong.
    """
    return parse_task_file(path, read_document(path))


def read_document(path: Path) -> dict[str, Any]:
    """Return what a task file holds, not yet checked. Raises `TaskFileError` where it is no TOML."""
    try:
        return tomllib.loads(read_text(path))
    except FileError as error:
        raise TaskFileError(f"{path} cannot be read as TOML: it {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise TaskFileError(f"{path} cannot be read as TOML: {error}") from error


def parse_task_file(path: Path, document: Mapping[str, Any]) -> TaskFile:
    """Check what a task file at `path` holds, and return it. Raises `TaskFileError` as `read_task_file`."""
    top = _Table(path, "", document)
    top.check_keys(_TABLES)
    backbone = _Table(path, "[backbone]", top.value("backbone", dict))
    settings: dict[str, Any] = top.value("settings", dict, {})
    Settings.from_mapping(settings, f"{path}: [settings]")
    tables = top.value("task", list)
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise top.error("task", "must be [[task]] tables, one for each fine-tuned model")
    tasks = [_task(_Table(path, f"[[task]] {number}", table)) for number, table in enumerate(tables, start=1)]
    names = [task.name for task in tasks]
    for index, name in enumerate(names):
        for other in names[:index]:
            if name.lower() == other.lower():
                raise top.error("task", f"has two tasks called {other!r} and {name!r}; names must differ in more than case")
    return TaskFile(path, _backbone(backbone), settings, tasks)


class _Table:
    """One table of the file, with errors that say where in the file they are."""

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


def _backbone(table: _Table) -> BackboneSource:
    table.check_keys(_BACKBONE_KEYS)
    model = table.place("model")
    if not (on_hub := table.on_hub("model", model)) and _is_path(model, (".json",)):
        table.existing("model", folder=True)
    if "weights" not in table.values:
        if not on_hub and not table.is_folder("model", table.path.parent / model):
            raise table.error("weights", f"is missing; only a folder of a model brings its own, and model is {shown(model)}")
        return BackboneSource(model, None)
    weights = table.place("weights")
    if not table.on_hub("weights", weights) and _is_path(weights, SUFFIXES):
        table.existing("weights", folder=True)
    return BackboneSource(model, weights)


def _task(table: _Table) -> TaskSource:
    name = table.string("name")
    table.where = f"[[task]] {shown(name)}"
    table.check_keys(_TASK_KEYS)
    if not TASK_NAME.fullmatch(name):
        raise table.error("name", "must be 1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit")
    if not table.on_hub("weights", weights := table.place("weights")):
        table.existing("weights", folder=True)
    seeds = _source(table, "seeds")
    classes = _classes(table)
    head = table.existing("head") if "head" in table.values else None
    templates: list[str] = []
    if head is None:
        templates = table.strings("templates", table.value("templates", list, list(DEFAULT_TEMPLATES)), "template")
        for template in templates:
            if "{}" not in template:
                raise table.error("templates", f"holds {shown(template)} without {{}}, where the class name goes; add it")
    elif "templates" in table.values:
        raise table.error("templates", "cannot go with head, whose embeddings are ready-made; remove one of them")
    return TaskSource(
        name=name,
        weights=weights,
        seeds=seeds,
        classes=classes,
        templates=templates,
        head=head,
        test=_source(table, "test", labeled=True) if "test" in table.values else None,
        tune=_source(table, "tune", labeled=True) if "tune" in table.values else None,
        seeds_per_class=_seeds_per_class(table, seeds),
    )


def _classes(table: _Table) -> list[str]:
    values = table.values.get("classes")
    if values is None:
        return []
    if isinstance(values, str):
        path = table.path.parent / table.place("classes")
        if table.status("classes", path) is None:
            raise table.error("classes", f"names {path}, which does not exist; correct the path")
        try:
            lines = read_text(path).splitlines()
        except FileError as error:
            raise table.error("classes", f"cannot be read as text ({error}); write one class name a line") from error
        values = [line.strip() for line in lines if line.strip()]
    if not isinstance(values, list):
        raise table.error("classes", "must be a list of class names, or a text file with one a line")
    return table.strings("classes", values, "class")


def _source(table: _Table, key: str, *, labeled: bool = False) -> ImageSource:
    """Read images by a string or, where more is to be said, a table with `files` and the rest."""
    value = table.values.get(key)
    if not isinstance(value, dict):
        source = ImageSource(table.place(key))
    else:
        inner = _Table(table.path, f"{table.where} {key}", value)
        inner.check_keys(_SOURCE_KEYS)
        columns = {name: inner.string(name) for name in _PARQUET_KEYS if name in value}
        source = ImageSource(inner.place("files"), share=_share(inner), **columns)
        if not source.labeled and source.share != WHOLE:
            raise inner.error(
                "share", f"is of every class, but files is {shown(source.files)}, a folder without labels; remove it"
            )
        if not source.parquet and columns:
            raise inner.error(
                next(iter(columns)), f"names a column, but files is {shown(source.files)}, not parquet; remove it"
            )
    if labeled and not source.labeled:
        raise table.error(
            key, f"is {shown(source.files)}, but needs labels: one folder {CLASS} as in dir/{CLASS}/*.png, or parquet"
        )
    _check_files(table, key, source)
    return source


def _share(table: _Table) -> tuple[float, float]:
    share = table.value("share", list, list(WHOLE))
    numbers = [x for x in share if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(share) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise table.error("share", f"is {shown(share)}, but must be two numbers from 0 to 1, the smaller first: [0.0, 0.9]")
    return float(numbers[0]), float(numbers[1])


def _check_files(table: _Table, key: str, source: ImageSource) -> None:
    """Check that what must be there whatever the images are called is there."""
    parts = PurePath(source.files).parts
    base = table.path.parent
    if CLASS in source.files and (parts.count(CLASS) != 1 or parts[-1] == CLASS):
        raise table.error(key, f"is {shown(source.files)}, but needs one folder {CLASS} and then the files: dir/{CLASS}/*.png")
    if table.on_hub(key, source.files, dataset=True):
        return
    if CLASS in source.files:
        if not table.is_folder(key, folder := base.joinpath(*parts[: parts.index(CLASS)])):
            raise table.error(key, f"looks for class folders in {folder}, which is no folder; correct the path")
    elif not source.parquet and not table.is_folder(key, folder := base / source.files):
        there = table.status(key, folder) is not None
        rule = "which is no folder; put the images in one" if there else "which does not exist; correct the path"
        raise table.error(key, f"names {folder}, {rule}")


def _seeds_per_class(table: _Table, seeds: ImageSource) -> int | None:
    if not seeds.labeled:
        if "seeds_per_class" in table.values:
            raise table.error(
                "seeds_per_class",
                f"needs labeled seeds, but {shown(seeds.files)} is a folder whose images are all used; remove it, or give "
                f"seeds as dir/{CLASS}/*.png",
            )
        return None
    count: int = table.value("seeds_per_class", int, SEEDS_PER_CLASS)
    if count < 1:
        raise table.error("seeds_per_class", f"is {shown(count)}, but must be at least 1")
    if count > MOST_SEEDS_PER_CLASS:
        raise table.error("seeds_per_class", f"is {shown(count)}, but must be at most {MOST_SEEDS_PER_CLASS}")
    return count


def _is_path(text: str, suffixes: tuple[str, ...]) -> bool:
    """Say whether a value that may also be an open_clip name or tag must be a path."""
    return "/" in text or "\\" in text or text.endswith(suffixes)
