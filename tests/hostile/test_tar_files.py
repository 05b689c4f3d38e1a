"""Tar files with members that are no files, names that lead out, sizes that lie and ends that are none: named, and cheap."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_parquet import encoded, labeled_pairs
from special_files import SPECIAL

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data import tar_members, webdataset_images
from mingle_edge.data.image_source import ImageSource

NAMES = ["sea", "river"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


GOOD = [member(f"{n}.{suffix}", data) for n in range(2) for suffix, data in (("png", encoded(n)), ("cls", b"%d" % n))]


def archive(*members: tuple[tarfile.TarInfo, bytes], dialect: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as written:
        for info, data in members:
            written.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(folder: Path, content: bytes) -> list[int]:
    (folder / "a.tar").write_bytes(content)
    return [label for _, label in labeled_pairs(ImageSource("a.tar"), folder, NAMES)]


def test_a_good_one_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, archive(*GOOD)) == [0, 1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("2.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "member '2.png' is a symbolic link, and only plain"),
        (member("2.png", type=tarfile.LNKTYPE, linkname="0.png"), "is a hard link"),
        (member("2.png", type=tarfile.CHRTYPE), "is a device"),
        (member("2.png", type=tarfile.BLKTYPE), "is a device"),
        (member("2.png", type=tarfile.FIFOTYPE), "is a named pipe"),
        (member("../2.png", encoded(2)), r"member '\.\./2\.png' leaves the archive"),
        (member("/etc/2.png", encoded(2)), "leaves the archive"),
        (member("a/../../2.png", encoded(2)), "leaves the archive"),
        (member("..\\2.png", encoded(2)), "leaves the archive"),
        (member("C:/2.png", encoded(2)), "leaves the archive"),
        (member("1.png", encoded(2)), r"member '1\.png' is there twice"),
        (member("0.png", encoded(2)), "sample '0' do not follow one another"),
        (member(f"{'x' * 20_000}.png", encoded(2)), "headers of a member take more than 16384 bytes"),
    ],
    ids=lambda value: value[0].name[:20] + value[0].type.decode() if isinstance(value, tuple) else "",
)
def test_members_refused(tmp_path: Path, cache: Path, bad: tuple[tarfile.TarInfo, bytes], message: str) -> None:
    for dialect in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with pytest.raises(ImageFolderError, match=rf"a\.tar.*{message}"):
            read(tmp_path, archive(*GOOD, bad, dialect=dialect))
    assert not cache.exists()


def header(**fields: object) -> bytes:
    return member("9.png", **fields)[0].tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
BODY = archive(*GOOD).rstrip(b"\0")
BODY += bytes(-len(BODY) % 512)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as tar"),
        (b"no tar" * 1000, "cannot be read as tar"),
        (BODY, "ends at byte .* without the mark of its end"),
        (BODY[:-600], "ends 512 bytes after they begin|unexpected end|without the mark"),
        (BODY + b"x" * 512 + END, "has a broken header at byte"),
        (BODY + END + BODY, "goes on after the mark of its end"),
        (BODY + header(size=1 << 40) + END, "has 1099511627776 bytes, and the archive ends 1024 bytes after they begin"),
        (BODY + header(size=(1 << 63) - 1) + END, "has 9223372036854775807 bytes|cannot be read as tar"),
        (BODY + header(size=1 << 30, type=tarfile.GNUTYPE_LONGNAME) + END, "headers of a member take more than"),
        (BODY + header(size=1 << 30, type=tarfile.XHDTYPE) + END, "headers of a member take more than"),
        (BODY + header(size=1 << 30, type=tarfile.XGLTYPE) + END, "headers of a member take more than"),
        (BODY + header(size=1 << 30, type=tarfile.GNUTYPE_SPARSE) + END, "is a sparse file|has 1073741824 bytes"),
        (gzip.compress(BODY + END), r"is compressed \(gzip\), and images are read out of the middle"),
    ],
)
def test_archives_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ImageFolderError, match=rf"a\.tar.*({message})"):
        read(tmp_path, content)


def test_what_is_claimed_takes_no_memory(tmp_path: Path) -> None:
    """A sparse file of 8 GiB, whose members say that they are as large, and names of as many letters."""
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE):
        info, _ = member("2.cls", size=8 << 30, type=kind)
        with (tmp_path / "a.tar").open("wb") as file:
            file.write(BODY + archive(member("2.png", encoded(2)))[:1024] + info.tobuf(tarfile.GNU_FORMAT))
            file.truncate((8 << 30) + (1 << 20))
        tracemalloc.start()
        with pytest.raises(ImageFolderError, match=r"a\.tar.*(at most 1048576 of a label|take more than|sparse)"):
            labeled_pairs(ImageSource("a.tar"), tmp_path, NAMES)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(("constant", "message"), [("MOST_IMAGE", "at most 10 of an image"), ("MOST_LABEL", "of a label")])
def test_members_too_large_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, message: str) -> None:
    monkeypatch.setattr(webdataset_images, constant, 10 if constant == "MOST_IMAGE" else 0)
    with pytest.raises(ImageFolderError, match=message):
        read(tmp_path, archive(*GOOD))


def test_more_members_than_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MOST_MEMBERS", 4)
    assert read(tmp_path, archive(*GOOD)) == [0, 1]
    monkeypatch.setattr(tar_members, "MOST_MEMBERS", 3)
    with pytest.raises(ImageFolderError, match="has more than 3 members"):
        read(tmp_path, archive(*GOOD))


def test_a_bomb_among_the_images_is_refused_before_it_is_decoded(tmp_path: Path, cache: Path) -> None:
    bomb = io.BytesIO()
    from PIL import Image

    Image.new("1", (1 << 15, 1 << 15)).save(bomb, "PNG")
    with pytest.raises(ImageFolderError, match=r"the image of '2\.png' cannot be read \(too large"):
        read(tmp_path, archive(*GOOD, member("2.png", bomb.getvalue()), member("2.cls", b"0")))
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 10_000


def test_cut_short_or_with_other_bytes(tmp_path: Path) -> None:
    """The labels of all samples, or one error that names the file: no sample is lost without a word."""
    content = archive(*GOOD)
    generator = np.random.default_rng(0)
    cases = [content[:length] for length in generator.integers(0, len(BODY), 40)]
    messages = []
    for case in cases:
        with pytest.raises(ImageFolderError, match=r"a\.tar"):
            read(tmp_path, case)
    for start in generator.integers(0, len(BODY), 150):
        damaged = bytearray(content)
        damaged[start] ^= int(generator.integers(1, 256))
        try:
            assert len(read(tmp_path, bytes(damaged))) == 2
        except ImageFolderError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all("a.tar" in message for message in messages)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["a.tar", "a.csv", "a.jsonl"])
def test_what_is_no_plain_file_is_told(tmp_path: Path, name: str, kind: str) -> None:
    make: Callable[[Path], object] = SPECIAL[kind]
    make(tmp_path / name)
    with pytest.raises(ImageFolderError, match=name.replace(".", r"\.")):
        labeled_pairs(ImageSource(name), tmp_path, NAMES)
