"""Image files: which formats are read, how large they may be, and the upright pixels of one.

A file from anywhere is looked at before it is decoded: it is a plain file, of a format in `FORMATS` (Pillow knows many more,
and starts other programs for some), of a size whose pixels fit in memory, and of 8 bits a channel. Of its metadata the
orientation alone is used, and none makes a file with intact pixels unreadable.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from mingle_edge_runtime.errors import ImageError

_PLUGINS: tuple[type[ImageFile.ImageFile], ...] = (  # imported by name, or Pillow would import every plugin it has
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    GifImagePlugin.GifImageFile,
    PpmImagePlugin.PpmImageFile,
)
FORMATS = tuple(str(plugin.format) for plugin in _PLUGINS)
"""JPEG, PNG, WEBP, BMP, TIFF, GIF, PPM: what is read; of several pictures in a file, the first."""
MOST_ELONGATED = 200
"""times as long as wide: the whole image is resized before its center is cut out"""
_WEBP_SHARE = 3  # of the pixels that may be decoded: a WebP takes 16 bytes a pixel, others 4 to 8
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_SMALLER = "Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
_LARGEST_PNG = 1 << 28  # bytes, of one that is read again without its metadata
_PNG = b"\x89PNG\r\n\x1a\n"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation (CIPA DC-008, tag 274) -> what turns the stored pixels upright


def read_image(file: str | PathLike[str] | bytes) -> Image.Image:
    """Decode a file to a Pillow image of 8 bits a channel, upright as its EXIF orientation says.

    file: its path, or its content.

    Raises `ImageError` for whatever is wrong with the file. It says what, and not which file: the caller names that.
    """
    try:
        if not isinstance(file, bytes):
            kind = os.stat(file).st_mode  # before opening, which could wait forever for a pipe's other end
            if not stat.S_ISREG(kind):
                raise ImageError("it is a folder" if stat.S_ISDIR(kind) else "it is no plain file but a pipe, socket or device")
        try:
            return _decode(io.BytesIO(file) if isinstance(file, bytes) else file)
        except Exception:
            bare = _png_without_metadata(file)
            if bare is None:
                raise
        return _decode(bare)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("there is not enough memory to decode it") from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except Exception as error:  # Pillow's decoders raise errors of any type on broken files
        raise ImageError(f"it is broken: {error}") from error


@contextmanager
def open_image(file: str | PathLike[str] | io.BytesIO) -> Iterator[ImageFile.ImageFile]:
    """Open an image of one of `FORMATS` whose size and depth are fit to decode; nothing is decoded yet.

    Raises `ImageError` for one that is not, saying what is wrong with it; a broken one raises what Pillow raises.
    """
    try:
        opened = Image.open(file, formats=FORMATS)  # noqa: TID251 - the only place
    except UnidentifiedImageError:
        raise ImageError(f"it is no intact image of a format that is read: {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the warning where it is an error
        raise ImageError(f"too large: {error} {_SMALLER}") from error
    with opened as picture:
        _check_size(picture)
        check_depth(picture)
        yield picture


def check_depth(picture: Image.Image) -> None:
    """Raise `ImageError` for more than 8 bits a channel: Pillow cuts these off, or clips values to 255, and scales neither.

    A file is asked before it is decoded, while it still tells.
    """
    deep = picture.mode in ("I", "F") or ";" in picture.mode
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        deep = deep or any(bits > 8 for bits in picture.tag_v2.get(_BITS_PER_SAMPLE, ()))
    elif isinstance(picture, PngImagePlugin.PngImageFile):
        deep = deep or any(";16" in str(tile[3]) for tile in picture.tile)  # RGB;16B becomes RGB
    if deep:
        raise ImageError(f"more than 8 bits per channel, mode {picture.mode}: convert it to 8 bits first")


def _decode(file: str | PathLike[str] | io.BytesIO) -> Image.Image:
    with open_image(file) as picture:
        picture.load()
        turn = _turn(picture)
        return picture if turn is None else picture.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Return what the EXIF orientation asks for; None where there is none or the metadata are broken."""
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None


def _png_without_metadata(source: str | PathLike[str] | bytes) -> io.BytesIO | None:
    """Leave out what is neither pixels, palette, transparency nor EXIF; None if that is nothing, or it is no PNG.

    Pillow refuses intact pictures for a color profile or a text of more than 1 MB, or a broken one.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return None
        content = file.read(_LARGEST_PNG)
    kept, at = [_PNG], 0
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")  # length, name, data, checksum
        name = content[at + 4 : at + 8]
        if name[:1].isupper() or name in (b"tRNS", b"eXIf"):  # a capital: the pixels cannot be understood without it
            kept.append(content[at:end])
        at = end
    bare = b"".join(kept)
    return io.BytesIO(bare) if len(bare) < len(_PNG) + len(content) else None


def _check_size(picture: ImageFile.ImageFile) -> None:
    (width, height), most = picture.size, Image.MAX_IMAGE_PIXELS
    if most and picture.format == "WEBP":
        most //= _WEBP_SHARE
    if most and width * height > most:
        raise ImageError(f"too large: {width} x {height} pixels, and at most {most} are decoded. {_SMALLER}")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise ImageError(f"too elongated: {width} x {height} pixels, and at most {MOST_ELONGATED} : 1 is read")
