"""The files that a pattern names. Links are followed, and a folder that cannot be read is an error, never passed over."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path, PurePath

from mingle_edge.core.errors import FileError
from mingle_edge.files.plain_file import find_file, refusal

ANY_DEPTH = "**"


def is_pattern(text: str) -> bool:
    """Say whether a path stands for more than itself."""
    return glob.has_magic(text)


def matching_files(root: Path, pattern: str) -> Iterator[tuple[Path, bool]]:
    """Return everything but folders that `pattern` names, and whether it is a plain file; relative ones start from `root`.

    `*`, `?` and `[...]` stand for parts of a name that does not begin with a dot, `**` for any folders. What links lead to
    belongs to it, except that a folder is read once, however many links lead there: loops end, and nothing comes twice. In no
    particular order.

    Raises:
        FileError: a folder that the pattern reaches may not be read.
        ValueError: `**` as part of a name.
    """
    named = PurePath(pattern)
    if named.anchor:
        root = Path(named.anchor)
    parts = named.relative_to(named.anchor).parts
    for part in parts:
        if ANY_DEPTH in part and part != ANY_DEPTH:
            raise ValueError(f"{part!r}: {ANY_DEPTH} stands for folders and cannot be part of a name")
    if parts and parts[-1] == ANY_DEPTH:
        parts = (*parts, "*")
    waiting = deque([(root, parts)])  # links last, so that a folder is known by its own name rather than by a link
    seen: set[tuple[int, int, int]] = set()
    while waiting:
        folder, (part, *following) = waiting.popleft()
        status = find_file(folder)
        if status is None or not stat.S_ISDIR(status.st_mode):
            continue
        identity = (status.st_dev, status.st_ino, len(following))
        if identity in seen:
            continue
        seen.add(identity)
        rest = tuple(following)
        if part == ANY_DEPTH:
            waiting.appendleft((folder, rest))
        elif not is_pattern(part):
            path = folder / part
            if rest:
                waiting.appendleft((path, rest))
            elif find_file(path) is not None or path.is_symlink():
                yield path, path.is_file()
            continue
        for entry in _entries(folder):
            if entry.name.startswith(".") and not part.startswith("."):
                continue
            if part != ANY_DEPTH and not fnmatch.fnmatchcase(entry.name, part):
                continue
            path = folder / entry.name
            if not _is_folder(entry):
                if not rest:
                    yield path, _is_plain(entry)
            elif part == ANY_DEPTH or rest:
                below = (path, (part, *rest) if part == ANY_DEPTH else rest)
                (waiting.append if entry.is_symlink() else waiting.appendleft)(below)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise FileError(folder, refusal(error)) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except PermissionError as error:
        raise FileError(entry.path, refusal(error)) from error
    except OSError:  # a link that leads to itself
        return False


def _is_plain(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
