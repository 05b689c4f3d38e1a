"""Metadata that nobody needs: intact pixels are read, upright where the orientation can be, whatever else is broken."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from encoded_images import END_OF_HEADER, PIXELS, chunk, encoded, exif, jpeg_with, png_with
from PIL import Image

from mingle_edge_runtime import ImageError
from mingle_edge_runtime.images.image_file import read_image

TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))  # as a phone that was held upright stores its pictures


def offset(entries: int) -> bytes:
    """Where the data of a directory of so many entries begin."""
    return struct.pack("<I", 14 + 12 * entries)


def ratio(over: int, under: int) -> bytes:
    """A signed fraction."""
    return struct.pack("<ii", over, under)


with Image.open(io.BytesIO(encoded("JPEG"))) as decoded:  # what is stored is not what was to be stored
    JPEG = np.asarray(decoded)
EXPOSURE = struct.pack("<HHHI", 1, 0x829A, 10, 1) + struct.pack("<I", 14 + 24 + 18) + bytes(4) + ratio(-5, 0)
TURNED_FILES = {
    "control": jpeg_with(exif([TURNED])),
    "resolution -1/0": jpeg_with(exif([TURNED, (0x11A, 10, 1, offset(2))], ratio(-1, 0))),
    "resolution 0/0": jpeg_with(exif([TURNED, (0x11A, 5, 1, offset(2))], ratio(0, 0))),
    "width as a fraction": jpeg_with(exif([(0x100, 5, 1, offset(2)), TURNED], ratio(18, 1))),
    "GPS pointer is text": jpeg_with(exif([TURNED, (0x8825, 2, 4, b"abc\0")])),
    "exposure -5/0": jpeg_with(exif([TURNED, (0x8769, 4, 1, offset(2))], EXPOSURE)),
    "a text that is cut off": jpeg_with(exif([TURNED, (0x131, 2, 999, offset(2))])),
    "an unknown type": jpeg_with(exif([(0x10F, 99, 1, bytes(4)), TURNED])),
}
PLAIN_FILES = {
    "no TIFF": jpeg_with(b"nonsense"),
    "an empty block": jpeg_with(b""),
    "orientation 99": jpeg_with(exif([(0x112, 3, 1, struct.pack("<HH", 99, 0))])),
    "orientation as text": jpeg_with(exif([(0x112, 2, 4, b"six\0")])),
    "orientation 6/0": jpeg_with(exif([(0x112, 5, 1, offset(1))], ratio(6, 0))),
    "a directory that never ends": jpeg_with(b"II*\0" + struct.pack("<IH", 8, 65535)),
}
LONG = bytes(2 << 20)
PNG_CHUNKS = {
    "eXIf is no TIFF": (b"eXIf", b"nonsense"),
    "a broken raw profile": (b"tEXt", b"Raw profile type exif\0\nexif\n  8\nzzzz"),
    "a color profile of 2 MB": (b"iCCP", b"big\0\0" + zlib.compress(LONG)),
    "a color profile of an unknown kind": (b"iCCP", b"odd\0\7" + zlib.compress(b"x")),
    "a color profile cut off": (b"iCCP", b"x"),
    "a compressed text of 2 MB": (b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
    "a compressed text of an unknown kind": (b"zTXt", b"Comment\0\7x"),
    "an international text of 2 MB": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
    "a gamma cut off": (b"gAMA", b"\0"),
    "a resolution cut off": (b"pHYs", b"\0"),
    "animation control cut off": (b"acTL", b"\0"),
}


def read(folder: Path, content: bytes) -> np.ndarray:
    """The pixels of a file of these bytes; warnings as an application sees them, not as errors."""
    path = folder / "photo"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(read_image(path).convert("RGB"))


UPRIGHT = {
    **{name: (content, np.rot90(JPEG, -1)) for name, content in TURNED_FILES.items()},
    **{name: (content, JPEG) for name, content in PLAIN_FILES.items()},  # whose orientation says nothing
    **{name: (png_with(*part), PIXELS) for name, part in PNG_CHUNKS.items()},
}


@pytest.mark.parametrize(("content", "pixels"), UPRIGHT.values(), ids=UPRIGHT)
def test_metadata_cost_neither_pixels_nor_orientation(tmp_path, content: bytes, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read(tmp_path, content), pixels)


def test_a_png_is_upright_whatever_else_it_holds(tmp_path) -> None:
    turned = Image.Exif()
    turned[0x112] = 6
    content = png_with(*PNG_CHUNKS["a color profile of 2 MB"], exif=turned)
    np.testing.assert_array_equal(read(tmp_path, content), np.rot90(PIXELS, -1))


def test_a_palette_with_transparency_is_read_the_same_without_metadata(tmp_path) -> None:
    Image.fromarray(PIXELS // 86 * 86).quantize(32).save(tmp_path / "plain", transparency=3, format="PNG")
    plain = (tmp_path / "plain").read_bytes()
    content = plain[:END_OF_HEADER] + chunk(*PNG_CHUNKS["a color profile of 2 MB"]) + plain[END_OF_HEADER:]
    np.testing.assert_array_equal(read(tmp_path, content), read(tmp_path, plain))


def test_leaving_out_metadata_mends_no_broken_pixels(tmp_path) -> None:
    content = png_with(*PNG_CHUNKS["a color profile of 2 MB"])
    with pytest.raises(ImageError, match="truncated"):
        read(tmp_path, content[:-200])
