"""Whole data sets, in a folder or on the hub: a split of one, whatever its files are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mingle_edge.core.errors import FileError, ImageFolderError
from mingle_edge.data.data_set_layout import Layout, find_layout
from mingle_edge.data.hub import fetch_files, is_hub_reference, list_data_set, parse_hub_reference
from mingle_edge.data.image_folder import list_images
from mingle_edge.data.image_list import METADATA, ListedImages, has_labels
from mingle_edge.data.image_source import CLASS, ImageSource
from mingle_edge.data.labeled_source import FolderImages, LabeledSource
from mingle_edge.data.sharded_images import ShardedImages
from mingle_edge.data.shards import check_all_there
from mingle_edge.files.file_pattern import ANY_DEPTH, matching_files
from mingle_edge.files.plain_file import check_plain_file, find_file
from mingle_edge.files.text_file import MOST_BYTES

CARD = "README.md"
"""The file whose head, in YAML, says which files are of which split, as on the hub."""


def open_data_set(source: ImageSource, base: Path, classes: Sequence[str]) -> LabeledSource:
    """Return the images of a source whose `files` is a folder, relative to `base`, or a data set on the hub.

    Raises:
        ImageFolderError: no such split, or what is wrong with its files.
        HubError: it is on the hub, and neither the hub nor the cache has it.
    """
    reference = parse_hub_reference(source.files) if is_hub_reference(source.files) else None
    if reference is None:
        root = base / source.files
        names = _files(root)
    else:
        names, root = list_data_set(reference)
    card = {} if reference is not None and reference.path else _card(root)
    layout = find_layout(names, source.split, source.usual_split, source.config, card, source.files)
    tables = _tables(names, layout)
    if reference is not None and layout.kind == "image folder":
        root = fetch_files(reference, tables, layout.folder)
    elif reference is not None:
        root = fetch_files(reference, layout.names)
    images = _open(source, layout, root, tables, classes)
    images.taken = ": ".join(filter(None, (layout.said, images.taken)))
    return images


def open_table(source: ImageSource, base: Path, classes: Sequence[str]) -> LabeledSource:
    """Return the images that a table names, relative to `base`, or on the hub with everything in the folder that it lies in.

    Raises as `open_data_set`.
    """
    if not is_hub_reference(source.files):
        return _only(ListedImages([base / source.files], source, classes))
    reference = parse_hub_reference(source.files)
    place = PurePosixPath(reference.path)
    within = replace(reference, path=str(place.parent) if len(place.parts) > 1 else "")
    root = fetch_files(within, [place.name], folder="")
    return _only(ListedImages([root / place.name], source, classes, root))


def _only(images: ListedImages) -> ListedImages:
    images.taken = ""  # the name of the source says it
    return images


def _open(source: ImageSource, layout: Layout, root: Path, tables: Sequence[str], classes: Sequence[str]) -> LabeledSource:
    if layout.kind == "image folder":
        return _open_folder(source, layout, root, [root / name for name in tables], classes)
    paths = [root / name for name in layout.names]
    try:
        for path in paths:
            check_plain_file(path)
    except FileError as error:
        raise ImageFolderError(str(error)) from error
    check_all_there(paths)
    return ShardedImages(paths, source, classes, parquet=layout.kind == "parquet")


def _open_folder(
    source: ImageSource, layout: Layout, root: Path, tables: Sequence[Path], classes: Sequence[str]
) -> LabeledSource:
    folder = root / layout.folder
    classes_are_folders = any("/" in name.removeprefix(f"{layout.folder}/" if layout.folder else "") for name in layout.names)
    if tables and (not classes_are_folders or any(has_labels(table, source) for table in tables)):
        listed = ListedImages(tables, source, classes, root, layout.folder)
        listed.skip_others(list_images(folder))
        return listed
    if not classes_are_folders:
        raise ImageFolderError(
            f"{folder} holds neither class folders nor {' or '.join(METADATA)} with labels; put images in a folder for each "
            "class, or name a table of files and labels, or a split's folder"
        )
    if source.label or source.image:
        raise ImageFolderError(
            f"{source.files}: a column is named, and {folder} holds class folders, without {' or '.join(METADATA)}; remove it"
        )
    return FolderImages(f"{CLASS}/{ANY_DEPTH}/*", folder, classes)


def _files(root: Path) -> list[str]:
    """Return the names of everything in a folder and below it, relative to it."""
    try:
        if find_file(root) is None or not root.is_dir():
            raise ImageFolderError(f"there is no folder {root}; correct the path")
        return [path.relative_to(root).as_posix() for path, _ in matching_files(root, f"{ANY_DEPTH}/*")]
    except FileError as error:
        raise ImageFolderError(str(error)) from error


def _tables(names: Sequence[str], layout: Layout) -> list[str]:
    """Return the tables of an ImageFolder: those in its folder and below, or else in the nearest folder above."""
    folder = PurePosixPath(layout.folder)
    if layout.kind != "image folder":
        return []
    named = [PurePosixPath(name) for name in names if PurePosixPath(name).name in METADATA]
    inside = [str(name) for name in named if folder in (name.parent, *name.parent.parents) or folder == PurePosixPath()]
    if inside:
        return sorted(inside)
    for above in folder.parents:
        if found := [str(name) for name in named if name.parent == above]:
            return sorted(found)
    return []


def _card(root: Path) -> dict[str, Any]:
    """Return what the head of a data set's README.md says; empty where there is none."""
    from huggingface_hub import metadata_load

    path = root / CARD
    try:
        if find_file(path) is None:
            return {}
        check_plain_file(path, MOST_BYTES)
        return metadata_load(path) or {}
    except FileError as error:
        raise ImageFolderError(str(error)) from error
    except Exception as error:  # of whatever YAML the library reads with
        raise ImageFolderError(
            f"{path} begins with a head that is no valid YAML ({' '.join(str(error).split()):.200}); correct it, or name the "
            "files themselves"
        ) from error
