"""Files that are there whole or not at all: what was written is on the disk before a rename makes it visible."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mingle_edge.files.partial_folder import partial_folder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_TAKEN = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # by something that is no folder, or no file


class RefusedFolderError(OSError):
    """A folder may not be written for a reason of ours; `strerror` says which, and the next step."""


def flush(path: Path) -> None:
    """Wait until the contents of a file, or the names in a folder, are on the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in, each on the disk before anything in it is. Raises `OSError`."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    flush(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file that takes the name `path` when the block ends well; until then the old one is there.

    Whoever writes it, the file gets the umask's mode. A link at `path` is replaced, not followed. Raises `OSError`.
    """
    with partial_folder(path.parent, path.name) as folder:
        written = folder / path.name
        written.touch()
        mode = stat.S_IMODE(written.stat().st_mode)
        yield written
        if stat.S_IMODE(written.stat().st_mode) != mode:  # some libraries make a file of their own, for its owner alone
            os.chmod(written, mode)
        flush(written)
        os.replace(written, path)
        flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave what was there; line ends as given, as escapes what is no Unicode. Raises `OSError`.

    The path is a user's: a link is followed, and what is no file (a pipe, `/dev/stdout`) is written to, not replaced.
    """
    if path.parts[:2] in (("/", "dev"), ("/", "proc")) or (path.exists() and not path.is_file()):
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            stream.write(text)
        return
    with replacing(Path(os.path.realpath(path))) as written:
        written.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def why_not_written(error: OSError) -> str:
    """Return what kept something from being written, and the next step, to follow its name in an error."""
    if isinstance(error, RefusedFolderError):
        return str(error.strerror)
    if error.errno in _FULL:
        step = "free some space and run the same command again"
    elif error.errno in _FORBIDDEN:
        step = "check who may write there, or name another place"
    elif error.errno in _TAKEN:
        step = "name another place"
    else:
        step = "run the same command again, or name another place"
    return f"cannot be written ({error.strerror or error}); {step}"
