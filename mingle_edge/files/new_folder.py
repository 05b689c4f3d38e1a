"""A new folder of files with an index that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mingle_edge.files.atomic_files import RefusedFolderError, flush, make_folder
from mingle_edge.files.folder_lock import LOCK
from mingle_edge.files.partial_folder import abandoned, is_partial, partial_folder

_JOURNAL = ".published.json"
_ALWAYS_THERE = ("lost+found",)  # in the root of a file system


@contextmanager
def new_folder(target: Path, index: str) -> Iterator[Path]:
    """Yield a private folder to fill with files, of which `index` tells what the others are; they are in `target` at the end.

    A target that is not there yet appears in one rename. One that is (a mount point, the current folder, one in a parent that
    may not be written) keeps its place and is filled, `index` last: without it no reader takes the folder for finished, and the
    next call removes what a killed process moved there. Where the block raises, nothing is left. Whoever calls this holds the
    target's lock. Raises `RefusedFolderError` where the target holds anything, `OSError` where the file system refuses.
    """
    check_new(target, index)
    final = Path(os.path.realpath(target))
    if final.is_dir():
        with partial_folder(final, index) as folder:
            yield folder
            _flush_all(folder)
            _move_into(final, folder, index)
        return
    make_folder(final.parent)
    with partial_folder(final.parent, final.name) as folder:
        yield folder
        _flush_all(folder)
        os.rename(folder, final)
        flush(final.parent)


def check_new(target: Path, index: str) -> None:
    """Check that `target` is not there or empty, once what a killed process published without its index is gone.

    Raises `RefusedFolderError` naming what is in it, `OSError` where it cannot be read.
    """
    if not target.is_dir():
        if target.exists():
            raise RefusedFolderError(errno.ENOTDIR, "the output must be a folder, and this is a file; name another")
        return
    for folder in abandoned(target, index):
        if not os.path.lexists(target / index):
            _take_back(target, folder)
    if names := contents(target):
        raise RefusedFolderError(
            errno.ENOTEMPTY, f"the output folder must be new or empty, and holds {', '.join(names[:3])}; name another folder"
        )


def contents(folder: Path) -> list[str]:
    """Return names in a folder besides those that mingle-edge itself needs there for a while. Raises `OSError`."""
    return sorted(name for name in os.listdir(folder) if name not in (LOCK, *_ALWAYS_THERE) and not is_partial(name))


def _flush_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def _move_into(target: Path, folder: Path, index: str) -> None:
    """Move all of `folder` into `target`, the index last, after a note of what these files are."""
    names = sorted(os.listdir(folder), key=lambda name: (name == index, name))
    journal = folder / _JOURNAL
    journal.write_text(json.dumps({name: os.lstat(folder / name).st_ino for name in names}))
    flush(journal)
    flush(folder)
    try:
        for name in names:
            if name == index:
                flush(target)
            os.rename(folder / name, target / name)
        flush(target)
    except BaseException:
        _take_back(target, folder)
        raise


def _take_back(target: Path, folder: Path) -> None:
    """Remove from `target` what was moved there from `folder`: files of the names and inodes that its note lists."""
    try:
        moved = json.loads((folder / _JOURNAL).read_text())
    except (OSError, ValueError):  # killed before the note was whole, and nothing was moved
        return
    for name, inode in moved.items():
        path = target / name
        if os.path.lexists(path) and os.lstat(path).st_ino == inode:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
