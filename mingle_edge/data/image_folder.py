"""Which files of a folder are images: all that the runtime reads, whatever they are called. Needs no torch."""

from __future__ import annotations

import mimetypes
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from types import MappingProxyType

from PIL import Image, UnidentifiedImageError

from mingle_edge.core.errors import FileError, ImageFolderError
from mingle_edge.data.class_matching import match_classes, suggestion
from mingle_edge.data.image_source import CLASS
from mingle_edge.files.file_pattern import ANY_DEPTH, matching_files
from mingle_edge.files.plain_file import check_plain_file, find_file, refusal
from mingle_edge_runtime.errors import ImageError
from mingle_edge_runtime.images.image_file import FORMATS, open_image

NO_IMAGE = "no image"
"""Why files of a folder are left out."""
_NAMED = 3  # images of other formats named in a message
_LISTED = 10  # classes and folders listed in a message


def list_images(folder: Path, skipped: Counter[str] | None = None, unread: list[Path] | None = None) -> list[Path]:
    """List the images in a folder and the folders inside it, sorted; hidden ones are passed over, links are followed.

    What is no image is counted in `skipped`, under the reason. Images of a format that is not read are an error, or put into
    `unread` where it is given.

    Raises:
        ImageFolderError: no such folder, no image in it, an image of a format that is not read, or something in it that may
            not be read.
    """
    try:
        if find_file(folder) is None or not folder.is_dir():
            raise ImageFolderError(f"there is no image folder {folder}; correct the path")
        images = _images(matching_files(folder, f"{ANY_DEPTH}/*"), skipped, unread)
    except FileError as error:
        raise ImageFolderError(str(error)) from error
    if not images and not unread:
        raise ImageFolderError(f"{folder} holds no image; put images there ({_formats()})")
    return images


def labeled_images(
    pattern: str, base: Path, classes: Sequence[str], skipped: Counter[str] | None = None
) -> list[tuple[Path, int]]:
    """List images with the index of their class, for a pattern such as `test/<class>/*.png` relative to `base`.

    A folder belongs to the class of the same name, however its accents are written and whatever spaces are around it. What is
    no image is counted in `skipped`, under the reason.

    Raises:
        ImageFolderError: no such folder, folders and classes that do not match one to one, a class without images, an image
            of a format that is not read, or something that may not be read.
    """
    parts = PurePath(pattern).parts
    if parts.count(CLASS) != 1 or parts[-1] == CLASS:
        raise ImageFolderError(f"the pattern {pattern!r} needs one folder {CLASS} and then the files, as in test/{CLASS}/*.png")
    split = parts.index(CLASS)
    root, files = base.joinpath(*parts[:split]), str(PurePath(*parts[split + 1 :]))
    try:
        if find_file(root) is None or not root.is_dir():
            raise ImageFolderError(f"there is no folder {root} for the pattern {pattern!r}; correct the path")
        folders = _folders(root)
        matched = _match_folders(root, folders, classes)
        labeled: list[tuple[Path, int]] = []
        for index, name in enumerate(classes):
            folder = root / matched[name]
            images = _images(matching_files(folder, files), skipped)
            if not images:
                raise ImageFolderError(
                    f"{folder} holds no image that matches {files!r}, so class {name!r} has none; add images or correct the "
                    f"pattern ({_formats()})"
                )
            labeled += [(path, index) for path in images]
    except FileError as error:
        raise ImageFolderError(str(error)) from error
    except ValueError as error:
        raise ImageFolderError(f"the pattern {pattern!r} is malformed ({error}); use one such as {CLASS}/*.png") from error
    return labeled


@cache
def suffixes() -> frozenset[str]:
    """Return suffixes of files that are taken for images unseen; others are looked into. In small letters, with the dot."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def _images(matched: Iterable[tuple[Path, bool]], skipped: Counter[str] | None, unread: list[Path] | None = None) -> list[Path]:
    """List the images among what a pattern names, sorted. Raises `ImageFolderError` for those that are not read, but with
    `unread`.
    """
    images: list[Path] = []
    others: list[Path] = []
    for path, plain in matched:
        suffix = path.suffix.lower()
        if suffix in suffixes():
            if not plain:
                check_plain_file(path)
            images.append(path)
        elif plain and suffix in _other_suffixes():
            others.append(path)
        elif plain and _looks_like_an_image(path):
            images.append(path)
        elif skipped is not None:
            skipped[NO_IMAGE] += 1
    if unread is not None:
        unread += sorted(others)
    elif others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        named = ", ".join(str(path) for path in sorted(others)[:_NAMED])
        raise ImageFolderError(
            f"{named}{more}: images of a format that is not read ({_formats()}); convert them, or take them out of the folder"
        )
    return sorted(images)


def _looks_like_an_image(path: Path) -> bool:
    """Say whether a file begins as an image of a format that is read."""
    try:
        with open_image(path):
            return True
    except PermissionError as error:
        raise FileError(path, refusal(error)) from error
    except ImageError as error:  # of an image that is too large or too deep, said again where it is decoded; or no image
        return not isinstance(error.__context__, UnidentifiedImageError)
    except Exception:  # Pillow's readers raise errors of any type on what only begins as an image
        return False


@cache
def _other_suffixes() -> frozenset[str]:
    """Return suffixes of images of formats that are not read."""
    pillow = {suffix for suffix, name in Image.registered_extensions().items() if _is_picture(Image.MIME.get(name))}
    known = {suffix for table in mimetypes.MimeTypes().types_map for suffix, name in table.items() if _is_picture(name)}
    return frozenset({".avif", ".heic", ".heif", ".jxl"} | pillow | known) - suffixes()


def _is_picture(kind: str | None) -> bool:
    return kind is not None and kind.startswith("image/")


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise FileError(root, refusal(error)) from error


def _match_folders(root: Path, folders: Sequence[Path], classes: Sequence[str]) -> dict[str, str]:
    matched = match_classes([folder.name for folder in folders], classes)
    used = set(matched.values())
    without = [name for name in classes if name not in matched]
    unknown = [folder.name for folder in folders if folder.name not in used]
    if without or unknown:
        near = {name: suggestion(name, unknown) for name in without[:_LISTED]}
        raise ImageFolderError(
            f"the folders of {root} and the classes do not match: classes without a folder: {_listed(without, near)}; folders "
            f"of no class: {_listed(unknown)}; rename the folders, or correct the classes"
        )
    return matched


def _listed(names: list[str], after: Mapping[str, str] = MappingProxyType({})) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(f"{name!r}{after.get(name, '')}" for name in names[:_LISTED]) or "none") + more


def _formats() -> str:
    return f"read are {', '.join(FORMATS)}, usually called {', '.join(sorted(suffixes()))}"
