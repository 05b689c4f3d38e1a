"""What may lie where a plain file is expected, and whom the modes of files bind. Shared by several."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

NOBODY = 65534


def _device(path: Path) -> None:
    """The one of endless zeros, by a link where this user makes no devices."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, chdir(path.parent):  # as the name of a socket must be short
        listener.bind(path.name)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": _device,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("gone"),
    "folder": Path.mkdir,
}
"""makers of what is no plain file, by what it is"""


@contextmanager
def bound_by_modes() -> Iterator[None]:
    """Be someone whom the modes of files bind: another user where this is root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """A temporary folder that every user may enter, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        folder.chmod(0o755)
        for path in folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)
