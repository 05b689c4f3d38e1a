"""Class names in a text file, one a line."""

from __future__ import annotations

from pathlib import Path

from mingle_edge.files.text_file import read_text


def read_class_list(path: Path) -> list[str]:
    """Return the lines of a file that are not blank, without spaces around them. Raises `FileError`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
