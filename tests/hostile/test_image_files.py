"""Files that are no image, no harmless one, or too much of one: an error that names them. What is intact is read."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.images import load_images
from mingle_edge_runtime import ImageError
from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.images.image_file import FORMATS, MOST_ELONGATED, read_image
from mingle_edge_runtime.images.preprocess import preprocess

SPEC = Preprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TINY = VisionArchitecture(Preprocess(8), 8, 48, 1, 1, 64, 24, "gelu")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 18, 3), dtype=np.uint8)  # [H, W, 3]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
END_OF_HEADER = len(SIGNATURE) + 25  # where a chunk may be put


def encoded(kind: str, pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    """What Pillow writes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(name: bytes, data: bytes, pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    """A PNG with one more chunk before its pixels."""
    file = encoded("PNG", pixels, **options)
    return file[:END_OF_HEADER] + chunk(name, data) + file[END_OF_HEADER:]


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG of any depth and color type; `rows` begin with their filter's byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(bits: tuple[int, ...], data: bytes, width: int, height: int) -> bytes:
    """An uncompressed RGB TIFF of any depth, little-endian."""
    count = len(bits)
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, count, 8),  # offset of the bits
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8 + 2 * count),  # offset of the data
        (277, 3, 1, count),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]
    body = struct.pack(f"<{count}H", *bits) + data
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


def bmp_of_16_bits(pixels: np.ndarray) -> bytes:
    """A BMP of 5 bits a channel of pixels `[H, W, 3]` whose width is even."""
    height, width = pixels.shape[:2]
    packed = (pixels[::-1].astype(np.uint16) >> 3) @ np.array([1 << 10, 1 << 5, 1], np.uint16)
    data = packed.astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 0, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def exif(entries: list[tuple[int, int, int, bytes]], data: bytes = b"") -> bytes:
    """A little-endian TIFF directory of (tag, type, count, value of 4 bytes); `data` follows it at `14 + 12 * entries`."""
    listed = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + listed + bytes(4) + data


def jpeg_with(block: bytes) -> bytes:
    """A JPEG with an EXIF block."""
    file, segment = encoded("JPEG"), b"Exif\0\0" + block
    return file[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + file[2:]


def written(folder: Path, content: bytes, name: str = "photo.png") -> Path:
    """A file of these bytes."""
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path: Path, message: str) -> None:
    """The same is refused on the device and where models are merged."""
    with pytest.raises(ImageError, match=rf"{path.name} cannot be read as an image: .*{message}"):
        preprocess(path, SPEC)
    for call in (check_images, lambda paths: load_images(paths, TINY)):
        with pytest.raises(ImageFolderError, match=rf"{path.name} cannot be decoded \(.*{message}"):
            call([path])


class TestFormats:
    def test_postscript_named_png_starts_no_other_program(self, tmp_path, monkeypatch) -> None:
        started = []
        monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
        refused(written(tmp_path, EPS), "no intact image of a format that is read: JPEG, PNG, WEBP, BMP, TIFF, GIF")
        assert not started

    @pytest.mark.parametrize("kind", FORMATS)
    def test_what_is_read_is_told_by_its_content(self, tmp_path, kind: str) -> None:
        assert preprocess(written(tmp_path, encoded(kind), "photo.eps"), SPEC).shape == (1, 3, 8, 8)

    @pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "DIB", "JPEG2000", "PDF", "SGI", "MSP"])
    def test_whatever_else_pillow_reads_is_refused(self, tmp_path, kind: str) -> None:
        content = encoded(kind, PIXELS[..., 0] > 9 if kind == "MSP" else PIXELS)
        refused(written(tmp_path, content), "no intact image of a format that is read")

    @pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
    def test_of_several_pictures_the_first_counts(self, tmp_path, kind: str) -> None:
        first, second = (np.full((24, 18, 3), value, np.uint8) for value in (40, 200))
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(kind, first, save_all=True, append_images=[Image.fromarray(second)], **options)
        np.testing.assert_array_equal(preprocess(written(tmp_path, content), SPEC), preprocess(first, SPEC))


class TestSize:
    @pytest.fixture(autouse=True)
    def _undecoded(self, monkeypatch) -> None:
        """Fail where pixels are decoded; warnings as an application sees them, not as errors."""
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: pytest.fail("decoded"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    @pytest.mark.parametrize("size", [(9_500, 9_500), (13_000, 13_000), (100_000, 100_000)])
    def test_too_many_pixels_are_never_decoded(self, tmp_path, size: tuple[int, int]) -> None:
        refused(written(tmp_path, png(*size, 8, 2, b"")), "too large: .* or raise PIL.Image.MAX_IMAGE_PIXELS")

    def test_a_webp_which_takes_more_memory_has_a_third_of_the_pixels(self, tmp_path) -> None:
        # A lossless one: "VP8L", its length, a signature, 14 bits of width - 1, 14 of height - 1, and next to no data.
        body = b"\x2f" + struct.pack("<I", 5499 | 5499 << 14) + bytes(11)
        content = b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body
        refused(written(tmp_path, content), "too large: 5500 x 5500 pixels, and at most 29826161 are decoded")

    @pytest.mark.parametrize("size", [(1, MOST_ELONGATED + 1), (3 * MOST_ELONGATED + 1, 3), (1, 2_000_000)])
    def test_elongated_files_are_never_decoded(self, tmp_path, size: tuple[int, int]) -> None:
        refused(written(tmp_path, png(*size, 8, 2, b"")), rf"too elongated: {size[0]} x {size[1]} pixels")


def test_a_limit_that_was_raised_counts(tmp_path, monkeypatch) -> None:
    path = written(tmp_path, encoded("PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 18 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(path, "too large: 18 x 24 pixels, and at most 431")
    for limit in (24 * 18, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_image(path).size == (18, 24)


def test_the_most_elongated_that_is_read(tmp_path) -> None:
    pixels = np.resize(PIXELS, (MOST_ELONGATED, 1, 3))
    np.testing.assert_array_equal(preprocess(written(tmp_path, encoded("PNG", pixels)), SPEC), preprocess(pixels, SPEC))


class TestDepth:
    @pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_png(self, tmp_path, color: int, channels: int) -> None:
        rows = {depth: (b"\0" + bytes(range(depth // 8 * channels)) * 6) * 6 for depth in (8, 16)}
        assert preprocess(written(tmp_path, png(6, 6, 8, color, rows[8])), SPEC).shape == (1, 3, 8, 8)
        path = written(tmp_path, png(6, 6, 16, color, rows[16]))
        refused(path, "more than 8 bits per channel")
        with Image.open(path) as opened, pytest.raises(ImageError, match="more than 8 bits per channel"):
            preprocess(opened, SPEC)  # an application's own, not decoded yet

    def test_tiff(self, tmp_path) -> None:
        refused(written(tmp_path, tiff((16,) * 3, PIXELS.astype("<u2").tobytes(), 18, 24)), "more than 8 bits per channel")
        content = tiff((8,) * 3, PIXELS.tobytes(), 18, 24)
        np.testing.assert_array_equal(preprocess(written(tmp_path, content), SPEC), preprocess(PIXELS, SPEC))

    def test_16_bits_a_pixel_are_not_too_many(self, tmp_path) -> None:
        decoded = np.asarray(read_image(written(tmp_path, bmp_of_16_bits(PIXELS))))
        assert np.abs(decoded.astype(int) - PIXELS).max() < 8


class TestKindOfFile:
    def test_a_link_to_an_image_is_one(self, tmp_path) -> None:
        written(tmp_path, encoded("PNG"), "target")
        (tmp_path / "photo.png").symlink_to("target")
        np.testing.assert_array_equal(preprocess(tmp_path / "photo.png", SPEC), preprocess(PIXELS, SPEC))

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (None, "the image is None"),
            (5, "the image is of type int"),
            (b"photo.png", "the image cannot be read as an image: it is no intact image of a format"),
            ([None], "image 0 is None"),
            ("photo\0.png", "cannot be read as an image"),
            ("caf\udce9.png", "No such file or directory"),
        ],
    )
    def test_what_is_no_name_of_a_file(self, image: object, message: str) -> None:
        with pytest.raises(ImageError, match=message):
            preprocess(image, SPEC)  # type: ignore[arg-type]


class TestBroken:
    def test_a_png_that_breaks_where_an_application_uses_it(self) -> None:
        rows = zlib.compress((b"\0" + bytes(3 * 40)) * 40, 0)  # black, stored without compression
        content = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0)) + chunk(b"IDAT", rows[:500])
        content += struct.pack(">I", 4) + b"\xa9\x8a\xbc\x07" + rows[500:] + bytes(4) + chunk(b"IEND", b"")
        with pytest.raises(ImageError, match="the image cannot be read as an image: broken PNG file"):
            preprocess(Image.open(io.BytesIO(content)), SPEC)

    @pytest.mark.parametrize("error", [MemoryError(), SyntaxError("broken"), struct.error("short"), RecursionError("deep")])
    @pytest.mark.parametrize("step", ["load", "resize", "convert"])
    def test_whatever_pillow_raises_is_an_image_error(self, tmp_path, monkeypatch, step: str, error: Exception) -> None:
        def failing(*arguments: object, **options: object) -> None:
            raise error

        path = written(tmp_path, encoded("PNG"))
        monkeypatch.setattr(Image.Image if step != "load" else ImageFile.ImageFile, step, failing)
        with pytest.raises(ImageError, match=r"photo\.png cannot be"):
            preprocess(path, SPEC)


# Metadata, which nobody needs: intact pixels are read, upright where the orientation can be, whatever else is broken.

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
LONG_TEXT = bytes(2 << 20)
PNG_CHUNKS = {
    "eXIf is no TIFF": (b"eXIf", b"nonsense"),
    "a broken raw profile": (b"tEXt", b"Raw profile type exif\0\nexif\n  8\nzzzz"),
    "a color profile of 2 MB": (b"iCCP", b"big\0\0" + zlib.compress(LONG_TEXT)),
    "a color profile of an unknown kind": (b"iCCP", b"odd\0\7" + zlib.compress(b"x")),
    "a color profile cut off": (b"iCCP", b"x"),
    "a compressed text of 2 MB": (b"zTXt", b"Comment\0\0" + zlib.compress(LONG_TEXT)),
    "a compressed text of an unknown kind": (b"zTXt", b"Comment\0\7x"),
    "an international text of 2 MB": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG_TEXT)),
    "a gamma cut off": (b"gAMA", b"\0"),
    "a resolution cut off": (b"pHYs", b"\0"),
    "animation control cut off": (b"acTL", b"\0"),
}


def read(folder: Path, content: bytes) -> np.ndarray:
    """The pixels of a file of these bytes; warnings as an application sees them, not as errors."""
    path = written(folder, content, "photo")
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
