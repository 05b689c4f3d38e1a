"""From the images of a request to what the model reads, in a thread of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime import EdgeModel, ImageError
from mingle_edge_runtime.images.image_file import MOST_ELONGATED, open_image
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_server.errors import RequestError
from mingle_edge_server.protocol.request import Images


def pixel_values(model: EdgeModel, images: Images, most_pixels: int) -> NDArray[np.float32]:
    """Return `[n, 3, S, S]` as `EdgeModel.classify` would make it.

    Raises `RequestError` naming the first image that is too large, cannot be read or is no image: then none is answered.
    """
    try:
        if isinstance(images, np.ndarray):
            _check_size(images.shape[2], images.shape[1], most_pixels, "each image")
            return preprocess(images, model.bundle.index.preprocess)
        return preprocess(_checked(images, most_pixels), model.bundle.index.preprocess)
    except ImageError as error:
        raise RequestError(f"{error}; no image of this request was answered") from error


def _checked(files: Images, most_pixels: int) -> Iterator[bytes]:
    """Yield every file once its head says that it is not too large to decode; a broken head is told when it is decoded."""
    for i, file in enumerate(files):
        content = bytes(file)
        try:
            with open_image(io.BytesIO(content)) as picture:
                size = picture.size
        except Exception:
            size = (1, 1)
        _check_size(*size, most_pixels, f"image {i}")
        yield content


def _check_size(width: int, height: int, most_pixels: int, which: str) -> None:
    if width * height > most_pixels:
        raise ImageError(f"{which} has {width} x {height} pixels, and at most {most_pixels} are decoded: shrink it")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise ImageError(f"{which} is too elongated: {width} x {height} pixels, and at most {MOST_ELONGATED} : 1 is read")
