"""The files of a tar archive, where each lies in it: nothing is unpacked, and no header is believed before it is checked."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, NamedTuple

from mingle_edge.core.errors import ImageFolderError, MingleError, shown
from mingle_edge.files.plain_file import refusal

MOST_MEMBERS = 1_000_000
"""Of one archive: each takes memory, and headers alone make a small file a long list."""
MOST_HEADER = 1 << 14
"""Bytes of the headers of one member: a name of any length may stand in them."""
_AFTER_END = 1 << 20  # bytes looked at, of which tar writes up to 10 KiB, all zero
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"PK": "zip"}
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Member(NamedTuple):
    """A plain file within an archive."""

    name: str
    start: int  # byte of the archive at which its content begins
    size: int  # bytes


def read_members(archive: Path) -> Iterator[Member]:
    """Yield the files of an uncompressed archive in their order; folders are passed over.

    Raises:
        ImageFolderError: it is compressed or damaged, holds links, devices, pipes or sparse files, names that leave it, or more
            members or longer headers than are read, or ends within a member.
    """
    with opened(archive) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _check_uncompressed(archive, file.read(2))
        file.seek(0)
        bounded = _Headers(file)
        with tarfile.open(fileobj=bounded, mode="r:") as listed:
            for count in range(MOST_MEMBERS + 1):
                bounded.left = MOST_HEADER
                member = listed.next()
                if member is None:
                    _check_end(archive, file, listed.offset)
                    return
                if count == MOST_MEMBERS:
                    raise ImageFolderError(f"{archive} has more than {MOST_MEMBERS} members; write it as several archives")
                listed.members.clear()  # type: ignore[attr-defined]  # or every header stays in memory
                _check(archive, member, size)
                if member.isfile():
                    yield Member(member.name, member.offset_data, member.size)


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[BinaryIO]:
    """Open an archive. Whatever is wrong with it becomes one error that names it."""
    try:
        with archive.open("rb") as file:
            yield file
    except MingleError:
        raise
    except PermissionError as error:
        raise ImageFolderError(f"{archive} {refusal(error)}") from error
    except Exception as error:  # besides tarfile's own: what Python makes of numbers and text that are none
        raise ImageFolderError(f"{archive} cannot be read as tar ({error!s:.200}); copy or download it again") from error


class _Headers(io.RawIOBase):
    """An archive of which `tarfile` may read so many bytes before it is allowed more; it reads nothing but headers."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = MOST_HEADER

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises `tarfile.ReadError` for more than are left to be read."""
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"the headers of a member take more than {MOST_HEADER} bytes")
        self.left -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _check_uncompressed(archive: Path, start: bytes) -> None:
    if kind := _COMPRESSED.get(start):
        raise ImageFolderError(
            f"{archive} is compressed ({kind}), and images are read out of the middle of an archive; decompress it, which "
            "hardly makes it larger"
        )


def _check_end(archive: Path, file: BinaryIO, offset: int) -> None:
    """Refuse what `tarfile` takes for an end: a broken header, or no more bytes; and whatever comes after the end."""
    file.seek(offset)
    block, rest = file.read(tarfile.BLOCKSIZE), file.read(_AFTER_END)
    if len(block) < tarfile.BLOCKSIZE:
        raise ImageFolderError(f"{archive} ends at byte {offset} without the mark of its end; copy or download it again")
    if any(block) or any(rest):
        rule = "has a broken header" if any(block) else "goes on after the mark of its end"
        raise ImageFolderError(f"{archive} {rule} at byte {offset}; copy or download it again, or write it as one archive")


def _check(archive: Path, member: tarfile.TarInfo, size: int) -> None:
    where = f"{archive}: member {shown(member.name)}"
    if member.issparse() or member.type in _KINDS:
        kind = "a sparse file" if member.issparse() else _KINDS[member.type]
        raise ImageFolderError(f"{where} is {kind}, and only plain files and folders are read; write the archive without it")
    path = PureWindowsPath(member.name)  # whose separators are those of both systems
    if path.root or path.drive or ".." in path.parts:
        raise ImageFolderError(f"{where} leaves the archive; write it with names below one folder")
    if member.size < 0 or member.offset_data + member.size > size:
        raise ImageFolderError(
            f"{where} has {member.size} bytes, and the archive ends {size - member.offset_data} bytes after they begin; copy "
            "or download it again"
        )
