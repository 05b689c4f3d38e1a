"""Folders of images: listing, checking, and loading them as CLIP sees them, upright and with 8 bits per channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

import open_clip
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.corruptions import Corruption
from mingle_edge.errors import ImageFolderError
from mingle_edge.image_source import CLASS

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_NAMED = 3  # broken images named in a message
_LISTED = 10  # classes and folders listed in a message
T = TypeVar("T")


def list_images(folder: Path) -> list[Path]:
    """The images in a folder and the folders inside it, by suffix, sorted; hidden ones are passed over.

    Raises:
        ImageFolderError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ImageFolderError(f"there is no image folder {folder}; correct the path")
    images = sorted(path for path in folder.rglob("*") if _is_image(path, folder))
    if not images:
        raise ImageFolderError(f"{folder} holds no image with a suffix of {', '.join(SUFFIXES)}; put images there")
    return images


def check_images(paths: Sequence[Path]) -> None:
    """Decode every image fully, one at a time. Raises `ImageFolderError` naming the first broken ones."""
    broken = []
    for path in paths:
        try:
            _decode(path, Image.Image.load)
        except ImageFolderError as error:
            broken.append(str(error))
    if broken:
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ImageFolderError("; ".join(broken[:_NAMED]) + more)


def load_images(paths: Sequence[Path], architecture: VisionArchitecture, corruption: Corruption | None = None) -> Tensor:
    """Images `[n, 3, H, W]` preprocessed by open_clip's transform for inference.

    A corruption is applied at the model's input size, before values are normalised.

    Raises:
        ImageFolderError: an image cannot be decoded.
    """
    size = architecture.image_size
    transform = open_clip.image_transform(size, is_train=False, mean=architecture.mean, std=architecture.std)
    if corruption is not None:
        transform.transforms.insert(-2, corruption)  # what follows is the tensor of the RGB image, and normalisation
    images = torch.empty(len(paths), 3, size, size)
    for row, path in zip(images, paths, strict=True):
        row.copy_(_decode(path, transform))
    return images


def labelled_images(pattern: str, base: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Images with the index of their class, for a pattern such as `test/<class>/*.png` relative to `base`.

    A folder belongs to the class of the same name or else, if that leaves no choice, to the one whose name is the same but for
    case, spaces and underscores.

    Raises:
        ImageFolderError: no such folder, folders and classes that do not match one to one, or a class without images.
    """
    parts = PurePath(pattern).parts
    if parts.count(CLASS) != 1 or parts[-1] == CLASS:
        raise ImageFolderError(f"the pattern {pattern!r} needs one folder {CLASS} and then the files, as in test/{CLASS}/*.png")
    split = parts.index(CLASS)
    root, files = base.joinpath(*parts[:split]), str(PurePath(*parts[split + 1 :]))
    if not root.is_dir():
        raise ImageFolderError(f"there is no folder {root} for the pattern {pattern!r}; correct the path")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    matched = match_classes([folder.name for folder in folders], classes)
    without = [name for name in classes if name not in matched]
    unknown = [folder.name for folder in folders if folder.name not in matched.values()]
    if without or unknown:
        raise ImageFolderError(
            f"the folders of {root} and the classes do not match: classes without a folder: {_listed(without)}; folders of no "
            f"class: {_listed(unknown)}; rename the folders, or correct the classes"
        )
    labelled: list[tuple[Path, int]] = []
    for index, name in enumerate(classes):
        folder = root / matched[name]
        try:
            images = sorted(path for path in folder.glob(files) if _is_image(path, folder))
        except ValueError as error:
            raise ImageFolderError(f"the pattern {pattern!r} is malformed ({error}); use one such as {CLASS}/*.png") from error
        if not images:
            raise ImageFolderError(
                f"{folder} holds no image that matches {files!r}, so class {name!r} has none; add images or correct the pattern"
            )
        labelled += [(path, index) for path in images]
    return labelled


def match_classes(found: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Class -> name found, for all that match exactly, or up to case, spaces and underscores with one candidate each."""
    exact = {name: name for name in classes if name in found}
    left = [name for name in classes if name not in exact]
    spare = [name for name in found if name not in exact]
    matched = dict(exact)
    for name in left:
        twins = [other for other in spare if _folded(other) == _folded(name)]
        rivals = [other for other in left if _folded(other) == _folded(name)]
        if len(twins) == len(rivals) == 1:
            matched[name] = twins[0]
    return matched


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(repr(name) for name in names[:_LISTED]) or "none") + more


def _is_image(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _decode(path: Path, use: Callable[[Image.Image], T]) -> T:
    """`use` of a decoded image; whatever decoding raises becomes one error that names the file.

    What the runtime does with a file on a device is done here, too: an image is turned upright as its EXIF orientation says,
    and refused with more than 8 bits per channel, which Pillow would clip to 255 instead of scaling them.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode in ("I", "F") or ";" in image.mode:
                raise ValueError(f"more than 8 bits per channel, mode {image.mode}")
            return use(image)
    except Exception as error:  # Pillow's decoders raise much besides OSError on broken files
        raise ImageFolderError(f"{path} cannot be decoded ({error}); replace or remove it") from error
