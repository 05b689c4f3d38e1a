"""Data sets in several files: which of them a pattern names, and whether any is missing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from mingle_edge.core.errors import FileError, ImageFolderError
from mingle_edge.files.file_pattern import braces_expanded, is_pattern, matching_files
from mingle_edge.files.plain_file import check_plain_file

_SHARD = re.compile(r"(.*?)-(\d{1,9})-of-(\d{1,9})(-[0-9a-f]+)?(\.parquet|\.tar)")


def find_shards(files: str, base: Path, what: str) -> list[Path]:
    """Return the files of a pattern relative to `base`, sorted; `what` they are goes into messages.

    Raises:
        ImageFolderError: none, one that is no plain file, a folder that may not be read, one that braces name and that is not
            there, or shards numbered `-00001-of-00003` of which some are missing.
    """
    paths: set[Path] = set()
    try:
        for pattern in braces_expanded(files):
            named = {path for path, _ in matching_files(base, pattern)}
            if not named:
                raise ImageFolderError(f"there is no {what} file {base / pattern}; correct the path")
            paths |= named
        for path in paths:
            check_plain_file(path)
    except FileError as error:
        raise ImageFolderError(str(error)) from error
    except ValueError as error:
        raise ImageFolderError(f"the pattern {files!r} is malformed ({error}); use one such as data/test-*.parquet") from error
    if is_pattern(files):  # one shard alone may be asked for
        check_all_there(sorted(paths))
    return sorted(paths)


def check_all_there(paths: Sequence[Path]) -> None:
    """Raise `ImageFolderError` where names say that there are more shards."""
    numbered: dict[tuple[Path, str, str, str], set[int]] = {}
    for path in paths:
        if match := _SHARD.fullmatch(path.name):
            numbered.setdefault((path.parent, match[1], match[3], match[5]), set()).add(int(match[2]))
    for (folder, name, total, suffix), numbers in numbered.items():
        missing = itertools.islice((number for number in range(int(total)) if number not in numbers), 3)
        if listed := ", ".join(f"{name}-{number:0{len(total)}d}-of-{total}{suffix}" for number in missing):
            raise ImageFolderError(
                f"{folder} holds {len(numbers)} of the {int(total)} shards of {name}, without {listed}; download the "
                "others, or widen the pattern"
            )
