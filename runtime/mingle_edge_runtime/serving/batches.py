"""Images in batches as large as one run takes, preprocessed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.errors import ImageError
from mingle_edge_runtime.images.decoding import Pictures, decode, pictures
from mingle_edge_runtime.images.preprocess import stack, to_pixel_values

_LARGEST = 32
"""images per run at most, so that memory does not grow with the number of images"""
OnError: TypeAlias = Literal["raise", "skip"]
"""What becomes of an image that cannot be read: the whole call raises, or its `ImageError` takes its place."""


@dataclass(frozen=True)
class Batch:
    """Some images in order."""

    pixels: NDArray[np.float32]
    """`pixel_values [m, 3, S, S]` of those that could be read"""
    errors: Sequence[ImageError | None]
    """of each of them all, None where it could"""


def batches(images: Pictures, spec: Preprocess, on_error: OnError = "raise") -> Generator[Batch, None, None]:
    """Yield at most 32 images at a time, preprocessed as `spec` says. Raises `ImageError` naming the image, unless skipped."""
    named = pictures(images)
    while True:
        values: list[NDArray[np.float32]] = []
        errors: list[ImageError | None] = []
        for name, image in islice(named, _LARGEST):
            try:
                values.append(to_pixel_values(decode(image, name), spec, name))
                errors.append(None)
            except ImageError as error:
                if on_error == "raise":
                    raise
                errors.append(ImageError(str(error)))  # without the traceback, which holds the picture
        if not errors:
            return
        yield Batch(stack(values, spec), errors)
