"""Parquet files of images as the Hugging Face hub stores them: which columns there are, and what the labels mean."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.class_matching import folded, match_classes

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class")
"""What is taken where several columns have the form of an image or a label, in order of preference."""

_FORMS = {"image": "a struct of bytes and path, or binary", "label": "whole numbers, true and false, or text"}
_LISTED = 10  # names in a message
_COLUMNS = 30  # columns in a message
_DEEPEST = 8  # structs within structs


@dataclass(frozen=True)
class Columns:
    """The two columns of a parquet file that are read."""

    image: str  # within structs: their names before it, with dots
    content: tuple[str, ...]  # of the encoded images: the column, and fields within it
    label: str
    names: list[str] | None  # of the label numbers, where the file says


def find_columns(schema: pa.Schema, where: Path, image: str | None, label: str | None) -> Columns:
    """Return the named columns, or those that alone have the form of an image and of a label, or of these the ones usually so
    called.

    An image is a struct of `bytes` and `path`, as the `datasets` library writes its feature Image, a struct within others, or
    binary. A label is a whole number, true or false, or text, or a dictionary of these; its names are those of the feature
    ClassLabel in the schema's metadata.

    Raises:
        ImageFolderError: no such column, or several; they are listed.
    """
    features = _features(schema)
    once = {name for name, count in Counter(schema.names).items() if count == 1}
    images = {".".join(name): content for name, content in _images([field for field in schema if field.name in once])}
    marked = [name for name in images if features.get(name, {}).get("_type") == "Image"]  # sound has the same form
    structs = [name for name, content in images.items() if name != ".".join(content)]
    labels = [field.name for field in schema if field.name in once and _is_label(field.type)]
    classes = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
    chosen_image = _chosen(image, list(images), marked or structs or list(images), IMAGE_NAMES, "image", schema, where)
    chosen_label = _chosen(label, labels, classes or labels, LABEL_NAMES, "label", schema, where)
    names = features.get(chosen_label, {}).get("names") if chosen_label in classes else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ImageFolderError(f"{where}: the class names of column {chosen_label} are not a list of strings; write it again")
    return Columns(chosen_image, images[chosen_image], chosen_label, names)


def class_numbers(names: Sequence[str] | None, classes: Sequence[str], where: str) -> list[int]:
    """Return, for each label number of a file, the number of its class in the task.

    Where all names are the task's, they decide. Otherwise the task's classes are taken to be in the order of label numbers, as
    CLIP's names for a data set's classes usually are.

    Raises:
        ImageFolderError: other numbers of classes, or a name that the file and the task have at different places, be it in
            another case or with other spaces.
    """
    if names is None:
        return list(range(len(classes)))
    if len(names) != len(classes):
        extra, missing = (_listed([n for n in one if n not in other]) for one, other in ((names, classes), (classes, names)))
        raise ImageFolderError(
            f"{where} has labels of {len(names)} classes, and the task has {len(classes)} classes: only in the files: {extra}; "
            f"only in the task: {missing}; correct the classes, or name the column of the labels"
        )
    matched = match_classes(names, classes)
    if len(matched) == len(classes):
        by_label = {matched[name]: number for number, name in enumerate(classes)}
        return [by_label[name] for name in names]
    places = {folded(name): number for number, name in enumerate(names)}
    for number, name in enumerate(classes):
        place = list(names).index(matched[name]) if name in matched else places.get(folded(name), number)
        if place != number and folded(names[number]) != folded(name):
            raise ImageFolderError(
                f"{where}: class {name!r} is number {number} of the task and number {place} of the files, there called "
                f"{names[place]!r}, and not all names are the same (in the files: {_listed(names)}); give the task's classes "
                "by the names of the files, or in their order"
            )
    return list(range(len(classes)))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the features that the `datasets` library notes in a schema, by column; empty where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {n: f for n, f in features.items() if isinstance(f, dict)} if isinstance(features, dict) else {}


def _images(fields: Iterable[pa.Field], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield the path of every field that may hold images, and that of its encoded content."""
    from pyarrow import types

    for field in fields:
        path = (*above, field.name)
        if types.is_binary(field.type) or types.is_large_binary(field.type):
            yield path, path
        elif types.is_struct(field.type) and len(path) <= _DEEPEST:
            below = list(field.type)
            names = {inner.name for inner in below}
            content = [(name, inside) for name, inside in _images(below, path)]
            own = [(path, inside) for name, inside in content if name == inside == (*path, "bytes") and "path" in names]
            yield from own or content


def _is_label(kind: pa.DataType) -> bool:
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return any(test(value) for test in (types.is_integer, types.is_boolean, types.is_string, types.is_large_string))


def _chosen(
    named: str | None,
    fit: list[str],
    likely: list[str],
    usual: Sequence[str],
    what: str,
    schema: pa.Schema,
    where: Path,
) -> str:
    described = [f"{field.name} ({field.type!s:.80})" for field in schema]
    more = f" and {len(described) - _COLUMNS} more" if len(described) > _COLUMNS else ""
    columns = ", ".join(described[:_COLUMNS]) + more
    if named is not None:
        if named in fit:
            return named
        there = schema.names.count(named)
        rule = "does not exist"
        if there:
            rule = "is there more than once" if there > 1 else f"has another form than {_FORMS[what]}"
        raise ImageFolderError(f"{where}: the {what} column {named!r} {rule}; the columns are {columns}")
    only = next((name for name in usual if name in likely), likely[0] if len(likely) == 1 else None)
    if only is None:
        count = f"{len(likely)} columns that may be" if likely else "no column that may be"
        raise ImageFolderError(f"{where} has {count} the {what}; name it: {what} = ...; the columns are {columns}")
    return only


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(repr(name) for name in names[:_LISTED]) or "none") + more
