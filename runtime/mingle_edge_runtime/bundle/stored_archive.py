"""Zip archives whose entries are stored, not compressed, as `numpy.savez` writes them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable


class ArchiveError(ValueError):
    """No zip archive, or one whose entries are compressed or overlap."""


def read_stored(content: bytes, names: Iterable[str]) -> dict[str, bytes]:
    """Return those entries of an archive that are called one of `names`.

    Raises `ArchiveError`; reading takes little more memory than `content`, whatever the archive claims.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            declared = sum(entry.file_size for entry in entries.values())
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries.values())
            if not stored or declared > len(content):
                raise ArchiveError(f"it is compressed, to hold {declared} bytes; arrays must be stored as they are")
            return {name: archive.read(entries[name]) for name in names if name in entries}
    except ArchiveError:
        raise
    except Exception as error:  # the reader raises errors of many types on broken files
        raise ArchiveError(f"it cannot be read as a zip archive: {error}") from error
