"""Plain files, told apart from what only looks like one before it is opened: a pipe would wait, a device never ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mingle_edge.core.errors import FileError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def find_file(path: Path) -> os.stat_result | None:
    """Return the status of whatever `path` names, links followed; None where there is nothing.

    Raises:
        FileError: it may not be looked at, or no file can have this name.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise FileError(path, refusal(error)) from error


def check_plain_file(path: Path, largest: int | None = None) -> os.stat_result:
    """Refuse all but a plain file, or a link to one, of at most `largest` bytes; nothing is opened.

    Raises:
        FileError: nothing there, something else, too large, or it may not be looked at.
    """
    status = find_file(path)
    if status is None:
        raise FileError(path, "is a link to nothing; mend or remove it" if path.is_symlink() else missing())
    if not stat.S_ISREG(status.st_mode):
        raise FileError(path, f"is {kind(status)}, not a plain file; name a file")
    if largest is not None and status.st_size > largest:
        raise FileError(path, f"has {status.st_size} bytes, and at most {largest} are read; name the right file, or shorten it")
    return status


def kind(status: os.stat_result) -> str:
    """Say what something is that is no plain file."""
    return next((name for test, name in _KINDS if test(status.st_mode)), "no file")


def missing() -> str:
    """Say why a file cannot be read that is not there."""
    return "does not exist; correct the path"


def refusal(error: OSError | ValueError) -> str:
    """Say why a file cannot be read, from the verb on; that it may not be is another thing than missing or damaged."""
    if isinstance(error, PermissionError):
        return (
            "may not be read (permission denied); change its permissions or those of the folders above it, or be a user who may"
        )
    if isinstance(error, FileNotFoundError):
        return missing()
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error}); correct the path, or restore it"
    return f"is no name that a file can have ({error}); correct the path"
