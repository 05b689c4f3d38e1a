"""Images in parquet files: which files and columns, what labels mean, and that only what is needed becomes files, once."""

from __future__ import annotations

import io
import os
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_cache import write_folder
from hub_parquet import encoded, labeled_pairs, write_shard
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import draw_calibration_images

NAMES = ["sea", "river", "lake"]
SOURCE = ImageSource("data/test-*.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own."""
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two shards of 7 and 5 images, labels 0, 1, 2, 0, 1, 2 ..., and a training shard beside them."""
    folder = tmp_path / "set"
    for shard, (first, last) in enumerate([(0, 7), (7, 12)]):
        numbers = range(first, last)
        path = folder / f"data/test-0000{shard}-of-00002.parquet"
        write_shard(path, [encoded(n) for n in numbers], [n % 3 for n in numbers], NAMES)
    write_shard(folder / "data/train-00000-of-00001.parquet", [encoded(n) for n in range(50, 80)], list(range(3)) * 10, NAMES)
    return folder


def written(cache: Path) -> list[str]:
    """Images in the cache folder."""
    return sorted(path.name for path in cache.rglob("*.png"))


def one_file(base: Path, *arguments: Any, **options: Any) -> ImageSource:
    write_shard(base / "one.parquet", *arguments, **options)
    return ImageSource("one.parquet")


class TestReading:
    def test_every_image_byte_for_byte_with_its_label(self, base: Path, cache: Path) -> None:
        found = labeled_pairs(SOURCE, base, NAMES)
        assert [(path.read_bytes(), label) for path, label in found] == [(encoded(n), n % 3) for n in range(12)]
        assert all(path.is_relative_to(cache) for path, _ in found)

    def test_seeds_alone_become_files(self, base: Path, cache: Path) -> None:
        source = ImageSource("data/train-*.parquet")
        seeds = draw_calibration_images(source, base, NAMES, 2, seed=0).paths
        assert len(written(cache)) == len(set(seeds)) == 6
        content = {path.read_bytes() for path in seeds}
        labels = Counter((n - 50) % 3 for n in range(50, 80) if encoded(n) in content)
        assert labels == {0: 2, 1: 2, 2: 2}
        assert set(draw_calibration_images(source, base, NAMES, 3, seed=0).paths) > set(seeds)
        assert len(written(cache)) == 9

    def test_shares_of_one_file_share_no_image(self, base: Path) -> None:
        source = ImageSource("data/train-*.parquet", share=(0.0, 0.7))
        seeds = draw_calibration_images(source, base, NAMES, 5, seed=0).paths
        tune = [path for path, _ in labeled_pairs(replace(source, share=(0.7, 1.0)), base, NAMES)]
        assert len(tune) == 9
        assert not set(seeds) & set(tune)

    def test_jpeg_and_others_keep_their_encoding(self, base: Path) -> None:
        kinds = ["JPEG", "WEBP", "BMP", "TIFF", "PNG", "GIF"]
        images = [encoded(n, kind) for n, kind in enumerate(kinds)]
        source = one_file(base, images, [0, 1, 2, 0, 1, 2], NAMES)
        found = labeled_pairs(source, base, NAMES)
        assert [path.suffix for path, _ in found] == [f".{kind.lower()}" for kind in kinds]
        assert [path.read_bytes() for path, _ in found] == images

    def test_on_the_hub(self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        write_folder(tmp_path / "hub", "datasets/tanganke/waters", base)
        for files in (
            "data/test-*.parquet",
            "**/test-*.parquet",
            "data/test-0000[0-9]-*.parquet",
            "data/test-{00000..00001}-of-*.parquet",
        ):
            found = labeled_pairs(ImageSource(f"hf://datasets/tanganke/waters/{files}"), Path("nowhere"), NAMES)
            assert [(path.read_bytes(), label) for path, label in found] == [(encoded(n), n % 3) for n in range(12)]

    @given(st.sets(st.integers(0, 11)), st.integers(1, 8))
    def test_any_rows_and_any_row_groups(self, tmp_path_factory: pytest.TempPathFactory, rows: set[int], size: int) -> None:
        from mingle_edge.data.sharded_images import ShardedImages

        folder = tmp_path_factory.mktemp("rows")
        for shard, numbers in enumerate((range(5), range(5, 12))):
            images = [encoded(n) for n in numbers]
            write_shard(folder / f"{shard}.parquet", images, [0] * len(images), ["a"], rows_per_group=size)
        order = sorted(rows, key=lambda row: (row * 7) % 12)
        paths = ShardedImages(sorted(folder.iterdir()), ImageSource("*.parquet"), ["a"], parquet=True).paths(order)
        assert [path.read_bytes() for path in paths] == [encoded(n) for n in order]


class TestCache:
    def test_nothing_is_written_twice(self, base: Path, cache: Path) -> None:
        first = labeled_pairs(SOURCE, base, NAMES)
        times = [path.stat().st_mtime_ns for path, _ in first]
        assert labeled_pairs(SOURCE, base, NAMES) == first
        assert [path.stat().st_mtime_ns for path, _ in first] == times

    def test_an_interrupted_run_goes_on_where_it_stopped(
        self, base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace_, done = os.replace, []

        def killed(source: Path, target: Path) -> None:
            if len(done) == 4:
                raise KeyboardInterrupt
            if target.suffix == ".png":
                done.append(target)
            replace_(source, target)

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            labeled_pairs(SOURCE, base, NAMES)
        assert len(written(cache)) == 4
        assert len([path for path in cache.rglob("*") if path.is_file()]) == 5  # and a note of the source; nothing of a fifth
        monkeypatch.undo()
        monkeypatch.setenv("MINGLE_EDGE_CACHE", str(cache))
        kept = {path: path.stat().st_mtime_ns for path in done}
        kept[done[0]] = 0
        done[0].write_bytes(b"")  # as after a power failure
        found = labeled_pairs(SOURCE, base, NAMES)
        assert [path.read_bytes() for path, _ in found] == [encoded(n) for n in range(12)]
        assert all(path.stat().st_mtime_ns == then for path, then in kept.items() if then)

    def test_a_file_that_changed_is_read_again(self, base: Path) -> None:
        source = one_file(base, [encoded(1)], [0], ["a"])
        before = labeled_pairs(source, base, ["a"])
        time.sleep(0.01)
        one_file(base, [encoded(2)], [0], ["a"])
        after = labeled_pairs(source, base, ["a"])
        assert before != after
        assert after[0][0].read_bytes() == encoded(2)

    def test_the_same_file_by_another_name_is_not_another(self, base: Path) -> None:
        """So that an image that is both seed and test image has one path."""
        source = one_file(base, [encoded(1)], [0], ["a"])
        (base / "links").mkdir()
        (base / "links/one.parquet").symlink_to(base / "one.parquet")
        assert labeled_pairs(source, base, ["a"]) == labeled_pairs(ImageSource("links/one.parquet"), base, ["a"])

    def test_the_default_is_in_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mingle_edge.data.image_cache import cache_folder

        monkeypatch.delenv("MINGLE_EDGE_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache/mingle-edge"


class TestBadFiles:
    def test_no_file(self, base: Path) -> None:
        with pytest.raises(ImageFolderError, match=r"there is no parquet file .*/data/val-\*\.parquet; correct the path"):
            labeled_pairs(ImageSource("data/val-*.parquet"), base, NAMES)

    def test_a_missing_shard(self, base: Path) -> None:
        (base / "data/test-00000-of-00002.parquet").unlink()
        with pytest.raises(ImageFolderError, match=r"1 of the 2 shards of test, without test-00000-of-00002\.parquet"):
            labeled_pairs(SOURCE, base, NAMES)
        assert len(labeled_pairs(ImageSource("data/test-00001-of-00002.parquet"), base, NAMES)) == 5

    def test_shards_of_older_uploads_end_in_a_hash(self, base: Path) -> None:
        for shard in range(2):
            path = base / f"data/test-0000{shard}-of-00002.parquet"
            path.rename(path.with_name(f"{path.stem}-1037ff4a0073832e.parquet"))
        assert len(labeled_pairs(SOURCE, base, NAMES)) == 12
        next((base / "data").glob("test-00001-*")).unlink()
        with pytest.raises(ImageFolderError, match="without test-00001-of-00002"):
            labeled_pairs(SOURCE, base, NAMES)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
    def test_damaged(self, base: Path, content: bytes) -> None:
        (base / "one.parquet").write_bytes(content)
        with pytest.raises(ImageFolderError, match=r"one\.parquet cannot be read as parquet"):
            labeled_pairs(ImageSource("one.parquet"), base, NAMES)

    @pytest.mark.parametrize(
        ("image", "message"),
        [(None, "row 2 has no bytes in column image"), (b"no image", "the image of row 2 cannot be read")],
    )
    def test_images_that_are_none(self, base: Path, cache: Path, image: bytes | None, message: str) -> None:
        source = one_file(base, [encoded(0), encoded(1), image], [0, 1, 2], NAMES)
        with pytest.raises(ImageFolderError, match=message):
            labeled_pairs(source, base, NAMES)
        assert all(path.read_bytes() in (encoded(0), encoded(1)) for path in cache.rglob("*.png"))

    def test_without_pyarrow(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("pyarrow", "pyarrow.parquet"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImageFolderError, match=r"needs pyarrow; install it in a clone of .*: pip install '\.\[data\]'"):
            labeled_pairs(SOURCE, base, NAMES)


def test_decoding_is_what_pillow_makes_of_the_bytes(base: Path) -> None:
    from PIL import Image

    path, _ = labeled_pairs(SOURCE, base, NAMES)[4]
    with Image.open(path) as ours, Image.open(io.BytesIO(encoded(4))) as theirs:
        assert ours.tobytes() == theirs.tobytes()
