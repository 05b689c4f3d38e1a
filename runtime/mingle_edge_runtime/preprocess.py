"""Images to `pixel_values`, in Pillow and numpy: open_clip's inference transform for CLIP, bit for bit.

Resize so that the shorter side fits, crop the centre, convert to RGB, scale to [0, 1], normalise per channel, in this order
(Radford et al. 2021, arXiv 2103.00020, and open_clip's `image_transform(..., is_train=False)`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mingle_edge_runtime.bundle_index import Preprocess
from mingle_edge_runtime.errors import ImageError

Picture: TypeAlias = str | PathLike[str] | Image.Image | NDArray[Any]
"""One image: a path, a Pillow image, or a uint8 array `[H, W, 3]` (RGB) or `[H, W]` (gray).

A file is turned upright as its EXIF orientation says, as phones store pictures; a Pillow image is taken as it is.
"""
Pictures: TypeAlias = Picture | Iterable[Picture]
"""One image or several; a uint8 array `[n, H, W, 3]` is n images."""


def pictures(images: Pictures) -> Iterator[tuple[str, Picture]]:
    """Every image in turn with a name for error messages, nothing decoded yet."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        yield from ((f"image {i} of the batch", image) for i, image in enumerate(images))
    elif isinstance(images, (str, PathLike)):
        yield str(images), images
    elif isinstance(images, (Image.Image, np.ndarray)):
        yield "the image", images
    else:
        for i, image in enumerate(images):
            yield str(image) if isinstance(image, (str, PathLike)) else f"image {i}", image


def decode(image: Picture, name: str) -> Image.Image:
    """The image as a loaded Pillow image of any 8-bit mode. Raises `ImageError` naming it by `name`."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise ImageError(
                f"{name} is an array of {image.dtype} {list(image.shape)}: "
                "arrays must be uint8 [H, W, 3] (RGB), [H, W] (gray) or a batch [n, H, W, 3]"
            )
        picture = Image.fromarray(image) if image.size else None
    elif isinstance(image, Image.Image):
        picture = image
    elif isinstance(image, (str, PathLike)):
        picture = _read(Path(image))
    else:
        raise ImageError(f"{name} is a {type(image).__name__}: give a path, a Pillow image or a uint8 array")
    if picture is None or min(picture.size) == 0:
        raise ImageError(f"{name} has no pixels")
    if picture.mode in ("I", "F") or ";" in picture.mode:  # Pillow would clip these to 255, not scale them
        raise ImageError(f"{name} has more than 8 bits per channel (mode {picture.mode}): convert it to 8 bits first")
    return picture


def to_pixel_values(picture: Image.Image, spec: Preprocess, name: str) -> NDArray[np.float32]:
    """`[3, S, S]` of one decoded image, S = `spec.image_size`. Raises `ImageError` naming it by `name`."""
    side = spec.image_size
    width, height = _resized(picture.size, side)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"{name} is {picture.width} x {picture.height}: too elongated to resize to a side of {side}")
    left, top = round((width - side) / 2), round((height - side) / 2)
    try:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        picture = picture.crop((left, top, left + side, top + side))
        picture.info.pop("transparency", None)  # of a palette, lost anyway; Pillow would warn
        picture = picture.convert("RGB")
    except (OSError, ValueError) as error:  # a lazily read file that is broken, or a mode without a conversion to RGB
        raise ImageError(f"{name} cannot be converted to RGB: {error}") from error
    values = np.asarray(picture).transpose(2, 0, 1).astype(np.float32)  # [S, S, 3] -> [3, S, S]
    values /= np.float32(255)
    values -= np.array(spec.mean, np.float32)[:, None, None]
    values /= np.array(spec.std, np.float32)[:, None, None]
    return values


def preprocess(images: Pictures, spec: Preprocess) -> NDArray[np.float32]:
    """`[n, 3, S, S]` float32 of one or several images, S = `spec.image_size`.

    Raises `ImageError` naming the first image that cannot be decoded.
    """
    return stack((to_pixel_values(decode(image, name), spec, name) for name, image in pictures(images)), spec)


def stack(values: Iterable[NDArray[np.float32]], spec: Preprocess) -> NDArray[np.float32]:
    """`[n, 3, S, S]` of n arrays `[3, S, S]`, also when there are none."""
    parts = list(values)
    side = spec.image_size
    return np.stack(parts) if parts else np.empty((0, 3, side, side), np.float32)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return picture
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} is too large: {error} Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read as an image: {error.strerror or error}") from error
    except Exception as error:  # Pillow's decoders raise errors of any type on broken files
        raise ImageError(f"{path} is broken: {error}") from error


def _resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    """`(width, height)` with the shorter one equal to `side`, the longer one cut to an integer as torchvision does."""
    width, height = size
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side
