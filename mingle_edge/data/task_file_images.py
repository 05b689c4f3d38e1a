"""The images that a task file names by `seeds`, `tune` and `test`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath

from mingle_edge.core.errors import FileError, shown
from mingle_edge.data.data_set_layout import split_folders
from mingle_edge.data.hub import is_hub_reference, parse_hub_reference
from mingle_edge.data.image_source import CLASS, WHOLE, ImageSource
from mingle_edge.data.task_file_table import Table
from mingle_edge.files.plain_file import check_plain_file

USUAL_SPLITS = {"seeds": "train", "tune": "validation", "test": "test"}
"""What a key reads of a folder or data set that is divided."""
_KEYS = ("files", "image", "label", "share", "split", "config")
_COLUMNS, _PARTS = ("image", "label"), ("split", "config")
_ARCHIVES = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")


def read_source(table: Table, key: str, *, labeled: bool = False) -> ImageSource:
    """Read images by a string or, where more is to be said, a table with `files` and the rest.

    Raises:
        TaskFileError: a value of another form, or what must be there whatever the images are called is not.
    """
    value = table.values.get(key)
    inner = table
    if isinstance(value, dict):
        inner = Table(table.path, f"{table.where} {key}", value)
        inner.check_keys(_KEYS)
        given = {name: inner.string(name) for name in (*_COLUMNS, *_PARTS) if name in value}
        source = ImageSource(inner.place("files"), share=_share(inner), **given)
    else:
        source = ImageSource(table.place(key))
    _check_files(table, key, source)
    if source.kind == "folder" and (labeled or _is_divided(table.path.parent, source)):
        source = replace(source, usual_split=USUAL_SPLITS[key])
    if not source.labeled and source.share != WHOLE:
        raise inner.error("share", f"is of every class, but files is {shown(source.files)}, a folder without labels; remove it")
    column, part = (next((name for name in names if getattr(source, name) is not None), None) for names in (_COLUMNS, _PARTS))
    if column and (source.kind == "class folders" or not source.labeled):
        raise inner.error(column, f"names a column, but files is {shown(source.files)}, which has none; remove it")
    if part and source.kind != "folder":
        raise inner.error(
            part, f"is of a folder or data set, but files is {shown(source.files)}; remove it, or name the folder"
        )
    return source


def _is_divided(base: Path, source: ImageSource) -> bool:
    """Say whether a source is a data set on the hub, or a folder with nothing in it but folders of splits."""
    if source.split is not None or source.config is not None:
        return True
    if is_hub_reference(source.files):
        return not parse_hub_reference(source.files).path
    try:
        return bool(split_folders(path.name for path in (base / source.files).iterdir() if _is_visible_folder(path)))
    except OSError:  # said where it is read
        return False


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _share(table: Table) -> tuple[float, float]:
    share = table.value("share", list, list(WHOLE))
    numbers = [x for x in share if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(share) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise table.error("share", f"is {shown(share)}, but must be two numbers from 0 to 1, the smaller first: [0.0, 0.9]")
    return float(numbers[0]), float(numbers[1])


def _check_files(table: Table, key: str, source: ImageSource) -> None:
    """Check that what must be there whatever the images are called is there."""
    parts = PurePath(source.files).parts
    base = table.path.parent
    if CLASS in source.files and (parts.count(CLASS) != 1 or parts[-1] == CLASS):
        raise table.error(key, f"is {shown(source.files)}, but needs one folder {CLASS} and then the files: dir/{CLASS}/*.png")
    if table.on_hub(key, source.files, dataset=True):
        return
    if source.kind == "class folders":
        if not table.is_folder(key, folder := base.joinpath(*parts[: parts.index(CLASS)])):
            raise table.error(key, f"looks for class folders in {folder}, which is no folder; correct the path")
    elif source.kind == "list":
        try:
            check_plain_file(base / source.files)
        except FileError as error:
            raise table.error(key, f"names {error}") from error
    elif source.kind == "folder" and not table.is_folder(key, folder := base / source.files):
        there = table.status(key, folder) is not None
        rule = "which is no folder; put the images in one" if there else "which does not exist; correct the path"
        if there and folder.suffix.lower() in _ARCHIVES:
            rule = "an archive that is not read; unpack it, and name its folder, or a .tar as WebDataset writes it"
        elif CLASS not in source.files and any(sign in source.files for sign in "*?["):
            rule = f"which is no folder; a pattern of images needs one folder for each class: dir/{CLASS}/*.png"
        raise table.error(key, f"names {folder}, {rule}")
