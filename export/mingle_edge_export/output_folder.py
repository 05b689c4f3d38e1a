"""A new folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mingle_edge.durable import flush
from mingle_edge_export.errors import OutputError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well, and vanishes otherwise.

    What a killed process left there is removed first. Raises `OutputError` where `target` holds something, is being written
    by another process, or the file system refuses.
    """
    if target.is_dir() and any(target.iterdir()):
        raise OutputError(f"{target}: the output folder must be new or empty, and holds files; name another or remove it")
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: the output must be a folder, and this is a file; name another")
    final = target.resolve()
    partial = final.with_name(f".{final.name}.partial")
    try:
        lock = _claim(partial)
    except OSError as error:
        raise _refused(target, error) from error
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        partial.rename(final)
        flush(final.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise _refused(target, error) from error
        raise
    finally:
        os.close(lock)


def check_space(folder: Path, needed: int) -> None:
    """Raise `OutputError` where the file system of `folder` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder.parent}: the bundle needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
            "free some space or choose another disk"
        )


def _claim(partial: Path) -> int:
    """Create the folder, empty, and lock it as long as the returned descriptor is open."""
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(f"{partial}: another export is writing here; wait for it or name another folder") from error
    for leftover in partial.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return descriptor


def _refused(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{target}: cannot be written ({error.strerror or error}); check the space left and the permissions, "
        "or name another folder"
    )
