"""Private folders for work that is not finished, and the remains of those whose process was killed.

A partial folder lies where its contents are to go. It is called `.NAME.RANDOM.partial`, where RANDOM ends in a check on the
rest: nobody can foresee the name, and it tells the folder from a user's from its first moment on. It is locked while its
process lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What `flock` says on a file system that has no locks."""

_PARTIAL = re.compile(r"\.(.+)\.([0-9a-f]{12})([0-9a-f]{8})\.partial", re.DOTALL)
_SHOWN = 160  # bytes of NAME, so that the whole fits the 255 that file systems allow


@contextmanager
def partial_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make a new folder in `parent` for what will be called `name`; it is removed when the block ends, unless it was renamed.

    Remains of killed processes for the same name go first. Raises `OSError`.
    """
    for _ in abandoned(parent, name):
        pass
    folder, lock = _create(parent, _shown(name))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def abandoned(parent: Path, name: str | None = None) -> Iterator[Path]:
    """Yield every partial folder in `parent` that no process works in, for `name` or for any, and remove each afterwards.

    Raises nothing: what may not be listed or removed stays, and is in nobody's way.
    """
    for folder in partial_folders(parent):
        if name is not None and not folder.name.startswith(f".{_shown(name)}."):
            continue
        with contextlib.suppress(OSError):
            lock = _lock(folder)
            if lock is not None:
                try:
                    yield folder
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def partial_folders(parent: Path) -> list[Path]:
    """Return partial folders in `parent`, in use or not, told by their names."""
    try:
        return sorted(parent / name for name in os.listdir(parent) if is_partial(name))
    except OSError:
        return []


def is_partial(name: str) -> bool:
    """Say whether a name in a folder is one that only `partial_folder` gives."""
    parts = _PARTIAL.fullmatch(name)
    return parts is not None and parts[3] == _check(parts[1], parts[2])


def _create(parent: Path, shown: str) -> tuple[Path, int]:
    """Make a new folder and return it with the open file that holds its lock."""
    while True:
        random = secrets.token_hex(6)
        folder = parent / f".{shown}.{random}{_check(shown, random)}.partial"
        try:
            os.mkdir(folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(parent)) from error  # the user knows no other name
        try:
            lock = _lock(folder, create=True)
        except FileNotFoundError:
            continue  # taken for abandoned before it was locked
        if lock is not None:
            return folder, lock


def _lock(folder: Path, *, create: bool = False) -> int | None:
    """Return an open file with the folder's lock, None where another process has it. Raises `OSError` for what is no folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Without locks a folder of another process cannot be told from an abandoned one, and stays.
        if create and error.errno in NO_LOCKS:
            return descriptor
        os.close(descriptor)
        return None
    if os.path.lexists(folder) and os.path.samestat(os.fstat(descriptor), os.lstat(folder)):
        return descriptor
    os.close(descriptor)
    return None


def _check(shown: str, random: str) -> str:
    return hashlib.sha256(f"mingle-edge partial folder\0{shown}\0{random}".encode(errors="surrogateescape")).hexdigest()[:8]


def _shown(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_SHOWN])
