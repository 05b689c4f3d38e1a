"""Where frames come from: a folder of images, MJPEG on standard input, or a camera that OpenCV opens. Each is an iterator.

A frame is what `EdgeModel.classify` takes: a path, the bytes of a JPEG, or an array.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"])
LARGEST_FRAME = 1 << 25  # bytes of one JPEG: a stream without an end mark must not fill the memory
CHUNK = 1 << 16  # bytes
START = b"\xff\xd8"  # of a JPEG
MARK, END = 0xFF, 0xD9  # the first byte of every mark in it, and the second of the last
WITHIN_PIXELS = (0x00, *range(0xD0, 0xD8))  # second bytes: of a byte that is no mark, and of restarts


class SourceError(Exception):
    """Frames cannot be had from where they were asked for."""


def open_source(source: str, fps: float, loop: bool) -> Iterator[Any]:
    """Return the frames of `source`.

    source: "-" for MJPEG on standard input, a folder, or for OpenCV the number of a camera, a device or an address.
    fps: frames a second of a folder. loop: whether a folder begins again at its end.

    Raises `SourceError`.
    """
    if source == "-":
        return standard_input()
    if Path(source).is_dir():
        return folder(Path(source), fps, loop)
    return opencv(source)


def folder(path: Path, fps: float, loop: bool) -> Iterator[Path]:
    """Yield the images of a folder in the order of their names, at a camera's pace. Raises `SourceError` where it has none."""
    images = sorted(image for image in path.iterdir() if image.suffix.lower() in SUFFIXES)
    if not images:
        raise SourceError(f"{path} holds no images: name a folder of frames")

    def paced() -> Iterator[Path]:
        due = time.monotonic()
        while True:
            for image in images:
                time.sleep(max(0.0, due - time.monotonic()))
                yield image
                due = max(due + 1 / fps, time.monotonic())  # who is late does not hurry
            if not loop:
                return

    return paced()


def standard_input() -> Iterator[bytes]:
    """Yield the JPEGs of standard input. Raises `SourceError` at its end where there was none, as of a program that failed."""
    empty = True
    for frame in mjpeg(lambda: os.read(sys.stdin.fileno(), CHUNK)):
        empty = False
        yield frame
    if empty:
        raise SourceError("standard input held no JPEG: pipe MJPEG in, as `ffmpeg -f mjpeg -` writes it")


def mjpeg(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield the JPEGs of a stream, one after the other, as `ffmpeg -f mjpeg` writes it.

    read: gives more bytes, b"" at the end. What lies between two JPEGs, and one that is cut short, is left out.
    """
    buffer = bytearray()
    while chunk := read():
        buffer += chunk
        while (frame := next_jpeg(buffer)) is not None:
            yield frame
        if len(buffer) > LARGEST_FRAME:
            del buffer[: len(START)]  # so that the next is looked for inside it


def next_jpeg(buffer: bytearray) -> bytes | None:
    """Cut the first whole JPEG out of a buffer, and all that lies before it; None where more bytes are needed.

    Segments are stepped over by their lengths, so that a thumbnail inside one does not end the picture.
    """
    start = buffer.find(START)
    del buffer[: start if start >= 0 else max(0, len(buffer) - 1)]  # the last byte may be half a mark
    at = len(START)
    while (at := buffer.find(MARK, at)) >= 0 and at + 1 < len(buffer):
        kind = buffer[at + 1]
        if kind == END:
            frame = bytes(buffer[: at + 2])
            del buffer[: at + 2]
            return frame
        if kind == START[1]:  # the one before was cut short
            del buffer[:at]
            at = len(START)
        elif kind in WITHIN_PIXELS:
            at += 2
        elif kind == MARK:  # padding
            at += 1
        elif at + 4 > len(buffer):
            return None
        else:
            at += 2 + int.from_bytes(buffer[at + 2 : at + 4], "big")
    return None


def opencv(source: str) -> Iterator[Any]:
    """Yield RGB arrays `[H, W, 3]` of a camera. Raises `SourceError` where OpenCV is not installed or finds none."""
    try:
        import cv2  # only who asks for a camera by name needs it
    except ImportError as error:
        raise SourceError(
            f"{source} is no folder, and cameras need OpenCV, which is not installed: pip install opencv-python-headless, or "
            "pipe MJPEG in, as in `ffmpeg -i /dev/video0 -f mjpeg - | python camera_service.py BUNDLE -`"
        ) from error
    camera = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not camera.isOpened():
        raise SourceError(f"OpenCV finds no camera at {source}")

    def captured() -> Iterator[Any]:
        try:
            while True:
                there, frame = camera.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            camera.release()

    return captured()
