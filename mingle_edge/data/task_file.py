"""The task file: TOML that names a backbone, the settings, and the fine-tuned tasks to merge. Reading it needs no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingle_edge.core.errors import FileError, TaskFileError, shown
from mingle_edge.data.class_list import read_class_list
from mingle_edge.data.image_source import CLASS, ImageSource
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file_images import read_source
from mingle_edge.data.task_file_table import Table
from mingle_edge.data.weights_folder import SUFFIXES
from mingle_edge.files.text_file import read_text
from mingle_edge_runtime.bundle.task_names import TASK_NAME

DEFAULT_TEMPLATES = ("a photo of a {}.",)
SEEDS_PER_CLASS = 5
"""Seeds drawn from labeled images unless the task says otherwise; what the paper uses (arXiv 2505.11883, section 4.1)."""
MOST_SEEDS_PER_CLASS = 1 << 20

_TABLES = ("backbone", "settings", "task")
_BACKBONE_KEYS = ("model", "weights")
_TASK_KEYS = ("name", "weights", "seeds", "seeds_per_class", "group", "classes", "templates", "head", "test", "tune")


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
    group: str | None = None  # of tasks that need not be told apart
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
        raise TaskFileError(f"{path} cannot be read as TOML: {error}; correct it there, or name a task file") from error


def parse_task_file(path: Path, document: Mapping[str, Any]) -> TaskFile:
    """Check what a task file at `path` holds, and return it. Raises `TaskFileError` as `read_task_file`."""
    top = Table(path, "", document)
    top.check_keys(_TABLES)
    backbone = Table(path, "[backbone]", top.value("backbone", dict))
    settings: dict[str, Any] = top.value("settings", dict, {})
    Settings.from_mapping(settings, f"{path}: [settings]")
    tables = top.value("task", list)
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise top.error("task", "must be [[task]] tables, one for each fine-tuned model")
    tasks = [_task(Table(path, f"[[task]] {number}", table)) for number, table in enumerate(tables, start=1)]
    names = [task.name for task in tasks]
    for index, name in enumerate(names):
        for other in names[:index]:
            if name.lower() == other.lower():
                raise top.error("task", f"has two tasks called {other!r} and {name!r}; names must differ in more than case")
    return TaskFile(path, _backbone(backbone), settings, tasks)


def _backbone(table: Table) -> BackboneSource:
    table.check_keys(_BACKBONE_KEYS)
    model = table.place("model")
    if not (on_hub := table.on_hub("model", model)) and _is_path(model, (".json",)):
        table.existing("model", folder=True)
    if "weights" not in table.values:
        if not on_hub and not table.is_folder("model", table.path.parent / model):
            raise table.error(
                "weights",
                f"is missing; only a folder of a model brings its own, and model is {shown(model)}; name a file, a folder or a "
                "tag of open_clip",
            )
        return BackboneSource(model, None)
    weights = table.place("weights")
    if not table.on_hub("weights", weights) and _is_path(weights, SUFFIXES):
        table.existing("weights", folder=True)
    return BackboneSource(model, weights)


def _task(table: Table) -> TaskSource:
    name = table.string("name")
    table.where = f"[[task]] {shown(name)}"
    table.check_keys(_TASK_KEYS)
    if not TASK_NAME.fullmatch(name):
        raise table.error("name", "must be 1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit")
    if not table.on_hub("weights", weights := table.place("weights")):
        table.existing("weights", folder=True)
    seeds = read_source(table, "seeds")
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
        test=read_source(table, "test", labeled=True) if "test" in table.values else None,
        tune=read_source(table, "tune", labeled=True) if "tune" in table.values else None,
        seeds_per_class=_seeds_per_class(table, seeds),
        group=_group(table),
    )


def _group(table: Table) -> str | None:
    if "group" not in table.values:
        return None
    group = table.string("group")
    if not TASK_NAME.fullmatch(group):
        raise table.error("group", "must be 1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit")
    return group


def _classes(table: Table) -> list[str]:
    values = table.values.get("classes")
    if values is None:
        return []
    if isinstance(values, str):
        path = table.path.parent / table.place("classes")
        if table.status("classes", path) is None:
            raise table.error("classes", f"names {path}, which does not exist; correct the path")
        try:
            values = read_class_list(path)
        except FileError as error:
            raise table.error("classes", f"cannot be read as text ({error}); write one class name a line") from error
    if not isinstance(values, list):
        raise table.error("classes", "must be a list of class names, or a text file with one a line")
    return table.strings("classes", values, "class")


def _seeds_per_class(table: Table, seeds: ImageSource) -> int | None:
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
