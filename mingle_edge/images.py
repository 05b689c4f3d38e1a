"""Images: listing those of folders, checking them, and loading them as CLIP sees them, upright, with 8 bits per channel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import open_clip
import torch
from PIL import Image
from torch import Tensor

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.corruptions import Corruption
from mingle_edge.errors import ImageFolderError
from mingle_edge.image_folder import labelled_images, list_images
from mingle_edge.plain_file import refusal
from mingle_edge.progress import Progress, silent
from mingle_edge_runtime.image_file import read_image

__all__ = ["check_images", "labelled_images", "list_images", "load_images"]

_NAMED = 3  # broken images named in a message
_AT_ONCE = 512  # images handed to the threads that check them
_MOST_THREADS = 8  # each holds a decoded image
T = TypeVar("T")


def check_images(paths: Sequence[Path], progress: Progress = silent) -> None:
    """Decode every image fully, before the work that needs them. Raises `ImageFolderError` naming the first broken ones.

    A file that was cut short has a sound header, so nothing less finds it. Pillow decodes outside of Python's lock: on n cores
    it takes an n-th of what decoding all of them once takes.
    """
    broken: list[str] = []
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        for start in range(0, len(paths), _AT_ONCE):
            if start:
                progress("images", start, len(paths))
            broken += filter(None, threads.map(_problem, paths[start : start + _AT_ONCE]))
    if broken:
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ImageFolderError("; ".join(broken[:_NAMED]) + more)
    progress("images", len(paths), len(paths))


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


def _problem(path: Path) -> str | None:
    """What is wrong with an image; None where it is sound."""
    try:
        _decode(path, Image.Image.load)
    except ImageFolderError as error:
        return str(error)
    return None


def _decode(path: Path, use: Callable[[Image.Image], T]) -> T:
    """`use` of an image decoded as on a device; whatever is wrong with it becomes one error that names the file."""
    try:
        return use(read_image(path))
    except Exception as error:
        if isinstance(error.__cause__, PermissionError):
            raise ImageFolderError(f"{path} {refusal(error.__cause__)}") from error
        raise ImageFolderError(f"{path} cannot be decoded ({error}); replace or remove it") from error
