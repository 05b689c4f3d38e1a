"""Arrays of pixels to Pillow images: what an array means is taken from it only where it cannot mean anything else.

torch, JAX, CuPy, OpenCV and others hand their arrays over by numpy's own protocols, so that none of them is imported here.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mingle_edge_runtime.errors import ImageError

_CHANNELS = (1, 3, 4)
"""gray, RGB, RGBA"""
_SHAPES = "[H, W], [H, W, C] or [C, H, W] with C = 1 (gray), 3 (RGB) or 4 (RGBA), or n of the latter two, [n, ...]"


class SupportsArray(Protocol):
    """What numpy can read, as tensors of torch on the CPU and arrays of JAX."""

    def __array__(self) -> NDArray[Any]:
        """Return the values as numpy's own array."""


class SupportsArrayInterface(Protocol):
    """What numpy can read where it lies."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Return address, shape and type (numpy's array interface, version 3)."""


def is_array(image: object) -> bool:
    """Return whether numpy can read an object by one of its protocols."""
    return (hasattr(image, "__array__") or hasattr(image, "__array_interface__")) and not isinstance(image, type)


def to_array(image: object, name: str) -> NDArray[Any]:
    """Return the values of an array of any library. Raises `ImageError`, naming it by `name`, where numpy cannot read them."""
    try:
        return np.asarray(image)
    except Exception as error:  # whatever the other library raises: values on a GPU, with a gradient, of a type numpy lacks
        library = type(image).__module__.partition(".")[0]
        hint = "; give tensor.detach().cpu(), with .float() where it is bfloat16" if library == "torch" else ""
        raise ImageError(
            f"{name} is a {library}.{type(image).__name__} that numpy cannot read: {str(error) or type(error).__name__}{hint}"
        ) from error


def from_array(array: NDArray[Any], name: str) -> Image.Image:
    """Return an image of 8 bits a channel: gray, RGB or RGBA.

    array: uint8, or floating with all values in [0, 1], which are multiplied by 255 and rounded, `[H, W]`, `[H, W, C]` or
    `[C, H, W]`, C = 1, 3 or 4.

    Raises `ImageError`, naming it by `name`, for values or a shape that could mean something else, with the conversion to
    write.
    """
    kind = f"{name} is an array of {array.dtype} {list(array.shape)}"
    if not array.size and array.ndim in (2, 3):
        raise ImageError(f"{name} has no pixels")
    pixels = _bytes(_channels_last(array, kind), kind)
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels))


def _channels_last(array: NDArray[Any], kind: str) -> NDArray[Any]:
    """Return `[H, W]` or `[H, W, C]`."""
    if array.ndim == 2:
        return array
    if array.ndim != 3:
        hint = {1: ": of the bytes of an image file, give array.tobytes()", 4: ", which is given alone and not in a list"}
        raise ImageError(f"{kind}: arrays must be {_SHAPES}{hint.get(array.ndim, '')}")
    first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
    if last and (not first or (array.shape[2] == 3 and array.dtype == np.uint8)):
        return array
    if first and last:
        raise ImageError(
            f"{kind}: its first and its last side could both be the channels; give uint8 [H, W, 3], which is "
            "array.transpose(1, 2, 0) of [3, H, W]"
        )
    if first:
        return array.transpose(1, 2, 0)  # [C, H, W] -> [H, W, C]
    raise ImageError(f"{kind}: arrays must be {_SHAPES}; of gray images in a row, give list(array)")


def _bytes(array: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        raise ImageError(f"{kind}: values must be uint8, or floating in [0, 1]; of a mask, give array.astype(np.uint8) * 255")
    if array.dtype.kind in "iu":
        raise ImageError(
            f"{kind}, which does not say which value is white: give array.astype(np.uint8) where it is 255, "
            "(array // 257).astype(np.uint8) where it is 65535, (array >> 4).astype(np.uint8) where it is 4095"
        )
    if array.dtype.kind != "f":
        raise ImageError(f"{kind}: values must be uint8, or floating in [0, 1]")
    least, most = float(array.min()), float(array.max())
    if not (least >= 0 and most <= 1):  # NaN, too
        raise ImageError(
            f"{kind} with values from {least:g} to {most:g}: floating values must lie in [0, 1]; of values up to 255 give "
            "array.round().astype(np.uint8); of normalized ones array * std + mean, or the image before its normalization"
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
