"""One process at a time may write in an output folder; a second one is told who that is.

It is refused, not made to wait: a merge or an export can take hours, and its outcome may make the second one pointless.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mingle_edge.files.atomic_files import RefusedFolderError, make_folder
from mingle_edge.files.partial_folder import NO_LOCKS

LOCK = ".mingle-edge.lock"
_FORMAT = "mingle-edge lock"
_BEGINNING = json.dumps({"format": _FORMAT})[:-1].encode()
_LARGEST = 4096  # bytes of a lock file


@contextmanager
def locked(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file `path`, which exists only meanwhile; a kill lets go of it.

    Its folder is made if need be, and goes at the end if it is still empty. work: what is done, as in "merge". Raises
    `RefusedFolderError` naming the process that holds it, `OSError` where the file system refuses.
    """
    path = Path(os.path.realpath(path.parent), path.name)
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        descriptor = _acquire(path, work)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_holder(work)).encode(), 0)
            yield
        finally:
            if _is_at(descriptor, path):
                path.unlink()  # while it is locked: whoever opened it meanwhile sees that it is not there any more
            os.close(descriptor)
    finally:
        for folder in made:
            try:
                folder.rmdir()
            except OSError:
                break


def _acquire(path: Path, work: str) -> int:
    while True:
        make_folder(path.parent)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # the folder's last holder removed it
        try:
            text = os.pread(descriptor, _LARGEST, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"?"
            if not _is_ours(text):
                raise RefusedFolderError(errno.EEXIST, f"{path.name} in it is no lock file of mingle-edge; move it away")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RefusedFolderError(errno.EWOULDBLOCK, _in_use(os.pread(descriptor, _LARGEST, 0), work)) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Say whether an open file is still the one of this name."""
    return os.path.lexists(path) and os.path.samestat(os.fstat(descriptor), os.lstat(path))


def _holder(work: str) -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"format": _FORMAT, "work": work, "process": os.getpid(), "host": platform.node(), "since": since}


def _is_ours(text: bytes) -> bool:
    """Say whether a lock file may be used: signed, or cut off while it was; a loss of power leaves zeros."""
    text = text.strip(b"\0")
    return text.startswith(_BEGINNING) or _BEGINNING.startswith(text)


def _read_holder(text: bytes) -> dict[str, object] | None:
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return holder if isinstance(holder, dict) and holder.get("format") == _FORMAT else None


def _in_use(text: bytes, work: str) -> str:
    holder = _read_holder(text)
    if holder is None:  # it has the lock and has not signed yet
        return f"another {work} is writing here; wait for it or name another folder"
    return (
        f"another {holder.get('work')} is writing here (process {holder.get('process')} on {holder.get('host')}, since "
        f"{holder.get('since')}); wait for it or name another folder"
    )
