"""Images to `pixel_values`, in Pillow and numpy, bit for bit as the library that a model came from.

open_clip's `image_transform(..., is_train=False)` (Radford et al. 2021, arXiv 2103.00020) resizes, crops the center, converts
to RGB, scales to [0, 1] and normalizes, in this order; the image processors of transformers, on Pillow, convert to RGB first.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.errors import ImageError
from mingle_edge_runtime.images.decoding import Pictures, decode, pictures


def to_pixel_values(picture: Image.Image, spec: Preprocess, name: str) -> NDArray[np.float32]:
    """Return `[3, S, S]` of one decoded image, S = `spec.image_size`. Raises `ImageError` naming it by `name`."""
    return normalized(resized(picture, spec, name), spec)


def resized(picture: Image.Image, spec: Preprocess, name: str) -> Image.Image:
    """Return one decoded image in 8-bit RGB and the size that the model reads. Raises `ImageError` naming it by `name`."""
    width, height = _resized_size(picture.size, spec)
    if min(width, height) == 0 or (Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS):
        raise ImageError(f"{name} is {picture.width} x {picture.height}: too elongated to resize to a side of {spec.side}")
    try:
        if spec.rgb != "after_crop":
            picture = _rgb(picture, on_white=spec.rgb == "before_resize_on_white")
        picture = picture.resize((width, height), Image.Resampling[spec.interpolation.upper()])
        picture = _crop(picture, spec)
        return _rgb(picture) if spec.rgb == "after_crop" else picture
    except Exception as error:  # a mode without a conversion to RGB, or no memory
        raise ImageError(f"{name} cannot be converted to RGB: {str(error) or type(error).__name__}") from error


def normalized(picture: Image.Image, spec: Preprocess) -> NDArray[np.float32]:
    """Return `[3, S, S]` of an image that `resized` returned."""
    values = np.asarray(picture).transpose(2, 0, 1).astype(np.float32)  # [S, S, 3] -> [3, S, S]
    values /= np.float32(255)  # of bytes the same as transformers' product with 1 / 255 in float64, rounded to float32
    values -= np.array(spec.mean, np.float32)[:, None, None]
    values /= np.array(spec.std, np.float32)[:, None, None]
    return values


def preprocess(images: Pictures, spec: Preprocess) -> NDArray[np.float32]:
    """Return `[n, 3, S, S]` float32 of one or several images, S = `spec.image_size`.

    Raises `ImageError` naming the first image that cannot be decoded.
    """
    return stack((to_pixel_values(decode(image, name), spec, name) for name, image in pictures(images)), spec)


def stack(values: Iterable[NDArray[np.float32]], spec: Preprocess) -> NDArray[np.float32]:
    """Return `[n, 3, S, S]` of n arrays `[3, S, S]`, also when there are none."""
    parts = list(values)
    side = spec.image_size
    return np.stack(parts) if parts else np.empty((0, 3, side, side), np.float32)


def _resized_size(size: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """Return `(width, height)`, the side that follows cut to an integer (torchvision) or rounded (open_clip's longest)."""
    (width, height), side = size, spec.side
    if spec.resize == "squash":
        return side, side
    if spec.resize == "longest_edge":
        ratio = max(width / side, height / side)
        return round(width / ratio), round(height / ratio)
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _crop(picture: Image.Image, spec: Preprocess) -> Image.Image:
    """Return the center of `spec.image_size`, what is shorter than that padded by `spec.fill`."""
    side = spec.image_size
    short = [max(0, side - length) for length in picture.size]
    if any(short):
        border = (*(gap // 2 for gap in short), *((gap + 1) // 2 for gap in short))  # left, top, right, bottom
        bands = len(picture.getbands())
        picture = ImageOps.expand(picture, border, spec.fill if bands == 1 else (spec.fill,) * bands)
    down = spec.crop_offset == "down"
    left, top = ((n - side) // 2 if down else round((n - side) / 2) for n in picture.size)
    return picture.crop((left, top, left + side, top + side))


def _rgb(picture: Image.Image, *, on_white: bool = False) -> Image.Image:
    """Return an image in RGB, its transparency dropped or laid on white."""
    if on_white and ("A" in picture.getbands() or picture.info.get("transparency") is not None):
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    elif isinstance(picture.info.get("transparency"), bytes):  # of a palette, lost anyway; Pillow would warn
        picture = picture.copy()
        del picture.info["transparency"]
    return picture.convert("RGB")
