"""Folders of images with all that folders hold: what is an image counts, what is left out is named, and nothing hangs."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from special_files import SPECIAL, bound_by_modes

from mingle_edge.core.errors import FileError, ImageFolderError
from mingle_edge.data.class_matching import match_classes
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_folder import labeled_images, list_images, suffixes
from mingle_edge.files.file_pattern import matching_files
from mingle_edge_runtime.images.decoding import decode
from mingle_edge_runtime.images.image_file import FORMATS

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
DEEP = 200
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def picture(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, kind)
    return path


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]


class TestFormats:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_whatever_the_runtime_reads_counts_whatever_it_is_called(self, tmp_path: Path, kind: str) -> None:
        called = ("a", "b.dat", "c.JPG", "d.jfif", "e.GIF", "f.2024-01-01", "g.webp")
        for name in called:
            decode(picture(tmp_path / name, kind), name)
        assert names(tmp_path) == sorted(called)
        check_images(list_images(tmp_path))

    def test_the_suffixes_are_those_of_the_formats(self) -> None:
        assert suffixes() >= {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
        assert not suffixes() & {".jp2", ".eps", ".avif", ".ico", ".psd"}

    @pytest.mark.parametrize(("suffix", "kind"), [("JP2", "JPEG2000"), ("dib", "DIB"), ("heic", "PNG")])
    def test_images_of_other_formats_are_named(self, tmp_path: Path, suffix: str, kind: str) -> None:
        for number in range(5):
            picture(tmp_path / "sea" / f"{number}.{suffix}", kind)
        picture(tmp_path / "sea/a.png")
        message = (
            rf"0\.{suffix}, .*1\.{suffix}, .*2\.{suffix} and 2 more: images of a format that is not read \(read are JPEG, PNG"
        )
        for call in (lambda: list_images(tmp_path), lambda: labeled_images("<class>/*", tmp_path, ["sea"])):
            with pytest.raises(ImageFolderError, match=message):
                call()
        assert len(labeled_images("<class>/*.png", tmp_path, ["sea"])) == 1  # what is not asked for is not left out

    def test_what_is_no_image_is_no_image(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        for name, content in {
            "notes.txt": b"BM is how a bitmap begins",
            "Thumbs.db": bytes(100),
            "report.pdf": b"%PDF-1.4",
            "labels.csv": b"a,b",
            "empty": b"",
            "figure.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        }.items():
            (tmp_path / name).write_bytes(content)
        assert names(tmp_path) == ["a.png"]

    def test_hidden_files_are_passed_over(self, tmp_path: Path) -> None:
        for name in (".a.png", "._b.png", ".cache/c.png", "d/.e.jpg", "d/f.png"):
            picture(tmp_path / name)
        assert names(tmp_path) == ["d/f.png"]


class TestLinks:
    def test_linked_folders_and_files_belong_to_it(self, tmp_path: Path) -> None:
        picture(tmp_path / "elsewhere/deep/b.png")
        picture(tmp_path / "seeds/a.png")
        (tmp_path / "seeds/batch2").symlink_to("../elsewhere")
        (tmp_path / "seeds/c.png").symlink_to("a.png")
        assert names(tmp_path / "seeds") == ["a.png", "batch2/deep/b.png", "c.png"]
        (tmp_path / "test").mkdir()
        (tmp_path / "test/sea").symlink_to("../elsewhere")
        assert [path.name for path, _ in labeled_images("test/<class>/**/*.png", tmp_path, ["sea"])] == ["b.png"]

    def test_loops_end(self, tmp_path: Path) -> None:
        picture(tmp_path / "a/b/c.png")
        (tmp_path / "a/b/up").symlink_to("../..")
        (tmp_path / "a/itself").symlink_to(".")
        (tmp_path / "again").symlink_to(tmp_path)
        (tmp_path / "nowhere").symlink_to("nowhere")
        assert names(tmp_path) == ["a/b/c.png"]

    def test_every_folder_is_read_once_under_its_own_name(self, tmp_path: Path) -> None:
        """Two links in each of thirty folders would else lead to a thousand million paths."""
        for level in range(30):
            picture(tmp_path / f"{level:02d}" / "a.png")
            for link in ("left", "right"):
                (tmp_path / f"{level:02d}" / link).symlink_to(f"../{(level + 1) % 30:02d}")
        assert names(tmp_path) == [f"{level:02d}/a.png" for level in range(30)]

    def test_links_to_nothing_are_named(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        (tmp_path / "b.JPG").symlink_to("gone.jpg")
        with pytest.raises(ImageFolderError, match=r"b\.JPG is a link to nothing"):
            list_images(tmp_path)
        (tmp_path / "b.JPG").unlink()
        (tmp_path / "lock").symlink_to("user@host.1234")  # as editors leave them
        assert names(tmp_path) == ["a.png"]


class TestSpecialFiles:
    @pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "socket"])
    def test_none_is_opened(self, tmp_path: Path, kind: str) -> None:
        picture(tmp_path / "b.png")
        SPECIAL[kind](tmp_path / "a")
        assert names(tmp_path) == ["b.png"]
        SPECIAL[kind](tmp_path / "a.png")
        with pytest.raises(ImageFolderError, match=r"a\.png is a (named pipe|device|socket), not a plain file"):
            list_images(tmp_path)

    def test_a_folder_called_as_an_image(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png/b.png")
        assert names(tmp_path) == ["a.png/b.png"]


class TestPermissions:
    @pytest.mark.parametrize(
        ("locked", "read"),
        [
            ("seeds/inside", lambda folder: list_images(folder / "seeds")),
            ("seeds", lambda folder: list_images(folder / "seeds")),
            ("seeds/inside/b", lambda folder: list_images(folder / "seeds")),
            ("seeds/a.png", lambda folder: check_images([folder / "seeds/a.png"])),
            ("test/sea", lambda folder: labeled_images("test/<class>/*", folder, ["sea"])),
            ("test", lambda folder: labeled_images("test/<class>/*", folder, ["sea"])),
        ],
    )
    def test_what_may_not_be_read_is_named(self, open_folder: Path, locked: str, read: Callable[[Path], object]) -> None:
        for name in ("seeds/a.png", "seeds/inside/b", "test/sea/c.png"):
            picture(open_folder / name)
        (open_folder / locked).chmod(0)
        with bound_by_modes(), pytest.raises(ImageFolderError, match=rf"{locked}.* may not be read \(permission denied\)"):
            read(open_folder)


class TestNames:
    def test_names_that_are_no_utf8(self, tmp_path: Path) -> None:
        picture(tmp_path / NOT_UTF8 / f"{NOT_UTF8}.png")
        picture(tmp_path / "b.png")
        assert names(tmp_path) == ["b.png", f"{NOT_UTF8}/{NOT_UTF8}.png"]
        check_images(list_images(tmp_path))
        with pytest.raises(ImageFolderError, match="folders of no class"):
            labeled_images("<class>/*", tmp_path, ["sea"])

    def test_accents_may_be_apart(self) -> None:
        assert match_classes(["cafe\u0301", "re\u0301sume\u0301 a"], ["caf\u00e9", "r\u00e9sum\u00e9 a"]) == {
            "caf\u00e9": "cafe\u0301",
            "r\u00e9sum\u00e9 a": "re\u0301sume\u0301 a",
        }

    def test_ten_thousand_classes_are_matched_at_once(self) -> None:
        """Pair by pair this took minutes."""
        classes = [f"Class_{number}" for number in range(10_000)]
        assert match_classes([f" {name}" for name in classes], classes)["Class_7"] == " Class_7"

    def test_folders_as_deep_as_paths_go(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        limit = sys.getrecursionlimit()
        with chdir(tmp_path / "root"):
            for _ in range(DEEP):
                os.mkdir("d")
                os.chdir("d")
            picture(Path("a.png"))
            os.chdir(tmp_path / "root")
            sys.setrecursionlimit(len(inspect.stack()) + DEEP // 2)  # by calls within calls it cannot be done
            try:
                (image,) = list_images(Path())
            finally:
                sys.setrecursionlimit(limit)
        assert len(image.parts) == DEEP + 1
        (tmp_path / "long").mkdir()
        with pytest.raises(ImageFolderError, match=r"long/x+.* cannot be read|there is no"):
            list_images(tmp_path / "long" / ("x" * 300))


PATTERNS = (
    "*",
    "*.png",
    "a/*.png",
    "**/*.png",
    "a/**/*",
    "?/b/*",
    "[ab]/*.png",
    "**/b/**/c.png",
    "a/b/c.png",
    "a/../d.png",
    "**/b/*",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_they_mean_to_pathlib(tmp_path: Path, pattern: str) -> None:
    """Where there are neither links nor hidden files nor locked folders."""
    for name in ("a/b/c.png", "a/b/b/c.png", "a/e.png", "d.png", "b/b/f.txt", "b/g.png", "[x]/h.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = sorted(path for path in tmp_path.glob(pattern) if path.is_file())
    assert sorted(path for path, plain in matching_files(tmp_path, pattern) if plain) == expected


def test_a_pattern_of_an_absolute_path(tmp_path: Path) -> None:
    picture(tmp_path / "a/b.png")
    assert list(matching_files(Path("elsewhere"), f"{tmp_path}/*/b.png")) == [(tmp_path / "a/b.png", True)]


def test_a_folder_that_a_pattern_does_not_reach_may_be_locked(open_folder: Path) -> None:
    picture(open_folder / "a/b.png")
    (open_folder / "a/locked").mkdir(mode=0)
    with bound_by_modes():
        assert [path.name for path, _ in matching_files(open_folder, "a/*.png")] == ["b.png"]
        with pytest.raises(FileError, match="locked may not be read"):
            list(matching_files(open_folder, "**/*.png"))
