"""Where results are written: looked at before the work that makes them, and filled whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mingle_edge.core.errors import FileError, OutputError
from mingle_edge.files.atomic_files import why_not_written, write_text
from mingle_edge.files.plain_file import find_file

_EFFECTIVE = os.access in os.supports_effective_ids  # whose rights count when a file is opened


def check_output_file(path: Path | None, *others: Path | None) -> None:
    """Check that a file can be written, also in place of one that is there; nothing is created. None is no file.

    others: files that the same command reads or writes, and which this one must not be.

    Raises:
        OutputError: it is one of `others` or a folder, the folder it is to lie in is missing, or this user may not write there.
    """
    if path is None:
        return
    status = _status(path)
    if status is None or stat.S_ISREG(status.st_mode):
        real = os.path.realpath(path)
        if any(other is not None and os.path.realpath(other) == real for other in others):
            raise OutputError(f"{path} cannot be written: the same command reads or writes it for something else; name another")
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{path} cannot be written: it is a folder; name a file in it")
    if status is not None and not stat.S_ISREG(status.st_mode):
        return  # a pipe or a terminal takes what it gets
    parent = Path(os.path.realpath(path)).parent  # a link's target is replaced, where that is
    status = _status(parent)
    if status is None or not stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}; create it first")
    _check_writable(path, parent)


def check_output_folder(folder: Path, *names: str) -> None:
    """Check that files of these names can be written into a folder, which may be missing, as those above it; none is created.

    Raises:
        OutputError: it is a file, one of the names is a folder, or this user may not write there.
    """
    there = Path(os.path.realpath(folder))
    while (status := _status(there)) is None:
        there = there.parent
    if not stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{folder} cannot be written: {there} is no folder; name another, or move that away")
    _check_writable(folder, there)
    if folder.is_dir():
        for name in names:
            check_output_file(folder / name)


def write_output(path: Path, text: str) -> None:
    """Write a whole file of text in UTF-8, or leave what was there. Bytes of file names that are no text become escapes.

    Raises:
        OutputError: saying why it cannot be written.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise OutputError(f"{path}: {why_not_written(error)}") from error


def _check_writable(path: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
        raise OutputError(f"{path} cannot be written: {folder} may not be; change its permissions, or name another")


def _status(path: Path) -> os.stat_result | None:
    try:
        return find_file(path)
    except FileError as error:
        raise OutputError(f"{path} cannot be written: it {error.reason}") from error
