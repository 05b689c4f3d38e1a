"""Image files made by hand, where Pillow writes no such thing."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

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
