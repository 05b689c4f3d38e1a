"""Images as an application has them to Pillow images: paths, files in memory, open files, Pillow images, arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mingle_edge_runtime.errors import ImageError
from mingle_edge_runtime.images.array_image import SupportsArray, SupportsArrayInterface, from_array, is_array, to_array
from mingle_edge_runtime.images.image_file import check_depth, read_image

Picture: TypeAlias = (
    str
    | PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Image.Image
    | NDArray[Any]
    | SupportsArray
    | SupportsArrayInterface
)
"""One image: a path, the bytes of an image file, a file opened with mode "rb", a Pillow image, or an array (`from_array`).

A file is turned upright as its EXIF orientation says, as phones store pictures; a Pillow image is taken as it is.
"""
Pictures: TypeAlias = Picture | Iterable[Picture]
"""One image or several; an array `[n, H, W, C]` or `[n, C, H, W]` is n images."""
_LARGEST_STREAM = 1 << 28  # bytes: an open file may have no end
_LONGEST_NAME = 4096  # characters of a path that is named as it is; those of a file in a text may be millions
_URL = re.compile(r"(?:([a-z][a-z0-9+.-]+)://|(data):)", re.IGNORECASE)
_WAYS_ON = {
    "http": "download it, as in urllib.request.urlopen(url).read(), and give the bytes",
    "data": 'decode it, as in base64.b64decode(url.partition(",")[2]), and give the bytes',
    "s3": 'read the object, as in boto3\'s get_object(...)["Body"].read(), and give the bytes',
    "file": "give the path, as in urllib.request.url2pathname(urllib.parse.urlsplit(url).path)",
}
_WAYS_ON["https"] = _WAYS_ON["http"]


def pictures(images: Pictures) -> Iterator[tuple[str, Picture]]:
    """Yield every image in turn with a name for error messages, nothing decoded yet."""
    if isinstance(images, (str, PathLike)):
        yield _path_name(images), images
        return
    single = isinstance(images, (Image.Image, bytes, bytearray, memoryview, Mapping)) or hasattr(images, "read")
    if not single and is_array(images):
        try:
            array = to_array(images, "the image")
        except ImageError:  # raised where it is decoded, as of every image
            array = np.empty((), np.object_)
        if array.ndim == 4:
            yield from ((f"image {i} of the batch", image) for i, image in enumerate(array))
            return
        single = array.ndim != 1 or array.dtype.kind not in "OSU"  # a column of paths or images is several
    if single or not isinstance(images, Iterable):
        yield "the image", images  # type: ignore[misc]  # whatever it is: refused where it is decoded
        return
    for i, image in enumerate(cast("Iterable[Picture]", images)):
        yield _path_name(image) if isinstance(image, (str, PathLike)) else f"image {i}", image


def decode(image: Picture, name: str) -> Image.Image:
    """Decode to a loaded Pillow image of any 8-bit mode. Raises `ImageError` naming it by `name`."""
    if isinstance(image, str) and (url := _URL.match(image)):
        scheme = (url[1] or url[2]).lower()
        way_on = _WAYS_ON.get(scheme, "read it, and give the bytes")
        raise ImageError(f"{name} is a URL, and nothing is downloaded here: {way_on}")
    if not isinstance(image, (str, PathLike, bytes, bytearray, memoryview, Image.Image)) and not hasattr(image, "read"):
        if not is_array(image):
            hint = ", as in item['image']" if isinstance(image, Mapping) else ""
            what = "None" if image is None else f"of type {type(image).__name__}"
            raise ImageError(
                f"{name} is {what}: give a path, the bytes of an image file, an open file, a Pillow image or an array{hint}"
            )
        try:
            return from_array(to_array(image, name), name)
        except MemoryError as error:
            raise ImageError(f"{name} cannot be converted to 8 bits: there is not enough memory") from error
    try:
        picture = image if isinstance(image, Image.Image) else read_image(_source(image))
        check_depth(picture)
        picture.load()  # what an application opened may be broken, too
    except Exception as error:
        raise ImageError(f"{name} cannot be read as an image: {str(error) or type(error).__name__}") from error
    if min(picture.size) == 0:
        raise ImageError(f"{name} has no pixels")
    return picture


def _source(image: Any) -> str | PathLike[str] | bytes:
    """Return a path, or the bytes of what is in memory or open, which is read from its beginning where it can be."""
    if isinstance(image, (str, PathLike, bytes)):
        return image
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if hasattr(image, "seekable") and image.seekable():
        image.seek(0)  # who has just written it is at its end
    content = image.read(_LARGEST_STREAM + 1)
    if not isinstance(content, (bytes, bytearray, memoryview)):
        how = 'open it with mode "rb"' if isinstance(content, str) else "give the bytes"
        raise ImageError(f"reading it gives a {type(content).__name__}: {how}")
    if len(content) > _LARGEST_STREAM:
        raise ImageError(f"an open file of more than {_LARGEST_STREAM >> 20} MiB is not read: give its path")
    return bytes(content)


def _path_name(path: str | PathLike[str]) -> str:
    try:
        name = os.fsdecode(path)
    except TypeError:  # of a class whose path is neither text nor bytes
        return f"the path of a {type(path).__name__}"
    if not name.strip():
        return repr(name)
    shown = 60 if name[:5].lower() == "data:" else _LONGEST_NAME
    return name if len(name) <= shown else f"{name[:60]}..."
