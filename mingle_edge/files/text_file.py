"""Text that a person wrote or saved: UTF-8, with or without the byte order mark that Windows' programs put before it."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from mingle_edge.core.errors import FileError
from mingle_edge.files.plain_file import check_plain_file, refusal

MOST_BYTES = 16 << 20
"""Of a text file; what is larger is not what it was taken for."""

_MARKS = (  # the longer first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_text(path: Path) -> str:
    """Return the text of a plain file of at most `MOST_BYTES` in UTF-8, without its byte order mark.

    Raises:
        FileError: not such a file; the encoding found is named, and the line of the first byte that is no UTF-8.
    """
    check_plain_file(path, MOST_BYTES)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)  # files of the kernel have no size
    except OSError as error:
        raise FileError(path, refusal(error)) from error
    if len(content) > MOST_BYTES:
        raise FileError(path, f"has more than {MOST_BYTES} bytes; name the right file, or shorten it")
    for mark, name in _MARKS:
        if content.startswith(mark):
            raise FileError(path, f"is text in {name}; save it as UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        place, byte = _line(content, error.start), content[error.start]
        raise FileError(
            path, f"is no UTF-8: line {place} holds the byte 0x{byte:02x}{_guess(byte)}; save it as UTF-8"
        ) from error
    if (place := content.find(b"\0")) >= 0:
        raise FileError(path, f"is no text, or UTF-16: line {_line(content, place)} holds a zero byte; save it as UTF-8")
    return text


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        FileError: as `read_text`, or the line and column where it stops being JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"is no valid JSON ({error}); restore it") from error


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def _guess(byte: int) -> str:
    """Return what a stray byte most likely stands for: programs on Windows write their own code page where nobody says
    otherwise.
    """
    letter = bytes([byte]).decode("cp1252", errors="ignore")
    return f", {letter} in Windows-1252" if letter.isalpha() else ""
