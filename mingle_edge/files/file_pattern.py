"""The files that a pattern names. Links are followed, and a folder that cannot be read is an error, never passed over."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path, PurePath

from mingle_edge.core.errors import FileError
from mingle_edge.files.plain_file import find_file, refusal

ANY_DEPTH = "**"


MOST_NAMES = 100_000
"""That the braces of one pattern stand for."""
_LONGEST = 4096  # characters of a path with braces
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def is_pattern(text: str) -> bool:
    """Say whether a path stands for more than itself."""
    return glob.has_magic(text) or braces_expanded(text) != [text]


def braces_expanded(pattern: str) -> list[str]:
    """Return the patterns that one with braces stands for, as in a shell: `{a,b}`, and `{08..11}` with its leading zeros.

    Other braces stand for themselves. Raises `ValueError` for more than `MOST_NAMES`.
    """
    done: list[str] = []
    waiting = [pattern]
    while waiting:
        text = waiting.pop()
        group = next((found for found in _BRACES.finditer(text) if _RANGE.fullmatch(found[1]) or "," in found[1]), None)
        if group is None:
            done.append(text)
        else:
            waiting += [text[: group.start()] + name + text[group.end() :] for name in _names(group[1])]
        if len(done) + len(waiting) > (MOST_NAMES if len(pattern) <= _LONGEST else 1):
            raise ValueError(f"its braces stand for more than {MOST_NAMES} names")
    return sorted(set(done))


def _names(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = int(numbers[1]), int(numbers[2])
    if abs(last - first) >= MOST_NAMES:
        raise ValueError(f"its braces stand for more than {MOST_NAMES} names")
    padded = any(len(number) > 1 and number.startswith("0") for number in numbers.groups())
    width = max(map(len, numbers.groups())) if padded else 0
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield f"{number:0{width}d}"


def matching_files(root: Path, pattern: str) -> Iterator[tuple[Path, bool]]:
    """Return everything but folders that `pattern` names, and whether it is a plain file; relative ones start from `root`.

    `*`, `?` and `[...]` stand for parts of a name that does not begin with a dot, `**` for any folders, braces for what
    `braces_expanded` says. What links lead to belongs to it, except that a folder is read once, however many links lead there:
    loops end, and nothing comes twice. In no particular order.

    Raises:
        FileError: a folder that the pattern reaches may not be read.
        ValueError: `**` as part of a name, or braces that stand for too many names.
    """
    patterns = braces_expanded(pattern)
    if len(patterns) == 1:
        yield from _matching(root, patterns[0])
        return
    found: set[Path] = set()
    for alternative in patterns:
        for path, plain in _matching(root, alternative):
            if path not in found:
                found.add(path)
                yield path, plain


def _matching(root: Path, pattern: str) -> Iterator[tuple[Path, bool]]:
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
