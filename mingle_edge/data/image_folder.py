"""Which files of a folder are images: all that the runtime reads, whatever they are called. Needs no torch."""

from __future__ import annotations

import mimetypes
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePath

from PIL import Image, UnidentifiedImageError

from mingle_edge.core.errors import FileError, ImageFolderError
from mingle_edge.data.image_source import CLASS
from mingle_edge.files.file_pattern import ANY_DEPTH, matching_files
from mingle_edge.files.plain_file import check_plain_file, find_file, refusal
from mingle_edge_runtime.errors import ImageError
from mingle_edge_runtime.images.image_file import FORMATS, open_image

_NAMED = 3  # images of other formats named in a message
_LISTED = 10  # classes and folders listed in a message


def list_images(folder: Path) -> list[Path]:
    """List the images in a folder and the folders inside it, sorted; hidden ones are passed over, links are followed.

    Raises:
        ImageFolderError: no such folder, no image in it, an image of a format that is not read, or something in it that may
            not be read.
    """
    try:
        if find_file(folder) is None or not folder.is_dir():
            raise ImageFolderError(f"there is no image folder {folder}; correct the path")
        images = _images(matching_files(folder, f"{ANY_DEPTH}/*"))
    except FileError as error:
        raise ImageFolderError(str(error)) from error
    if not images:
        raise ImageFolderError(f"{folder} holds no image; put images there ({_formats()})")
    return images


def labeled_images(pattern: str, base: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """List images with the index of their class, for a pattern such as `test/<class>/*.png` relative to `base`.

    A folder belongs to the class of the same name or else, if that leaves no choice, to the one whose name is the same but for
    case, spaces and underscores.

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
            images = _images(matching_files(folder, files))
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


def match_classes(names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return class -> name, for all that match exactly, or up to case, spaces and underscores with one candidate each."""
    there, wanted = set(names), set(classes)
    matched = {name: name for name in classes if name in there}
    twins, rivals = _by_folded(there - wanted), _by_folded(wanted - there)
    for folded, rival in rivals.items():
        candidates = twins.get(folded, [])
        if len(candidates) == len(rival) == 1:
            matched[rival[0]] = candidates[0]
    return matched


@cache
def suffixes() -> frozenset[str]:
    """Return suffixes of files that are taken for images unseen; others are looked into. In small letters, with the dot."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def _images(matched: Iterable[tuple[Path, bool]]) -> list[Path]:
    """List the images among what a pattern names, sorted. Raises `ImageFolderError` for those that are not read."""
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
    if others:
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
        raise ImageFolderError(
            f"the folders of {root} and the classes do not match: classes without a folder: {_listed(without)}; folders of no "
            f"class: {_listed(unknown)}; rename the folders, or correct the classes"
        )
    return matched


def _by_folded(names: Iterable[str]) -> dict[str, list[str]]:
    by_folded: dict[str, list[str]] = {}
    for name in names:
        # Composed, as file systems and archives of macOS take letters and their accents apart.
        folded = " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split()).casefold()
        by_folded.setdefault(folded, []).append(name)
    return by_folded


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(repr(name) for name in names[:_LISTED]) or "none") + more


def _formats() -> str:
    return f"read are {', '.join(FORMATS)}, usually called {', '.join(sorted(suffixes()))}"
