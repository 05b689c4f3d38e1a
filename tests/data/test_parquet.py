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

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_cache import write_folder
from hub_parquet import encoded, labeled_pairs, write_shard
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import draw_calibration_images
from mingle_edge.data.parquet_columns import class_numbers

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
        from mingle_edge.data.parquet_images import ParquetImages

        folder = tmp_path_factory.mktemp("rows")
        for shard, numbers in enumerate((range(5), range(5, 12))):
            images = [encoded(n) for n in numbers]
            write_shard(folder / f"{shard}.parquet", images, [0] * len(images), ["a"], rows_per_group=size)
        order = sorted(rows, key=lambda row: (row * 7) % 12)
        paths = ParquetImages(sorted(folder.iterdir()), ImageSource("*.parquet"), ["a"]).paths(order)
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


class TestColumns:
    @pytest.mark.parametrize(
        ("image", "label", "extra", "named"),
        [
            ("image", "label", {}, {}),
            ("img", "fine_label", {"coarse_label": [0] * 6}, {}),
            ("jpg", "cls", {"__key__": list("abcdef"), "__url__": list("abcdef")}, {}),
            ("picture", "kind", {}, {}),
            ("picture", "kind", {"number": range(6)}, {"label": "kind"}),
            ("image", "label", {"image_id": list("abcdef"), "label_cat_dog": [0] * 6}, {}),
        ],
    )
    def test_are_found(self, base: Path, image: str, label: str, extra: dict[str, Any], named: dict[str, str]) -> None:
        others = {name: pa.array(list(values)) for name, values in extra.items()}
        labels = [2, 1, 0, 0, 1, 2]
        for names in (None, NAMES):
            source = one_file(base, [encoded(n) for n in range(6)], labels, names, image=image, label=label, others=others)
            found = labeled_pairs(replace(source, **named), base, NAMES)
            assert [number for _, number in found] == labels
            assert found[3][0].read_bytes() == encoded(3)

    def test_a_class_label_goes_before_other_numbers(self, base: Path) -> None:
        others = {"row": pa.array([0, 0, 0])}
        source = one_file(base, [encoded(n) for n in range(3)], [2, 1, 0], NAMES, label="kind", others=others)
        assert [number for _, number in labeled_pairs(source, base, NAMES)] == [2, 1, 0]

    def test_sound_is_no_image(self, base: Path) -> None:
        from hub_parquet import IMAGE

        others = {"audio": pa.array([{"bytes": b"", "path": ""}] * 3, type=IMAGE)}
        source = one_file(
            base,
            [encoded(n) for n in range(3)],
            [2, 1, 0],
            NAMES,
            image="photo",
            others=others,
            features={"audio": {"_type": "Audio"}},
        )
        assert labeled_pairs(source, base, NAMES)[1][0].read_bytes() == encoded(1)

    @pytest.mark.parametrize(
        ("named", "extra", "message"),
        [
            ({"image": "photo"}, {}, r"the image column 'photo' does not exist; the columns are picture \(struct"),
            ({"image": "kind"}, {}, "the image column 'kind' has another form"),
            ({"label": "label"}, {}, "the label column 'label' does not exist; .* kind \\(int64\\)"),
            ({"label": "picture"}, {}, "the label column 'picture' has another form"),
            ({}, {"number": [0] * 6}, "has 2 columns that may be the label; name it: label = "),
        ],
    )
    def test_refused(self, base: Path, named: dict[str, str], extra: dict[str, Any], message: str) -> None:
        others = {name: pa.array(values) for name, values in extra.items()}
        images = [encoded(n) for n in range(6)]
        source = one_file(base, images, [0, 1, 2, 0, 1, 2], image="picture", label="kind", others=others)
        with pytest.raises(ImageFolderError, match=message):
            labeled_pairs(replace(source, **named), base, NAMES)


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "kind"),
        [([0, 1, 1], pa.uint8()), ([False, True, True], pa.bool_()), ([0, 1, 1], pa.int32())],
    )
    def test_numbers_without_names_follow_the_classes(self, base: Path, labels: list[Any], kind: Any) -> None:
        source = one_file(base, [encoded(n) for n in range(3)], labels, label_type=kind)
        assert [number for _, number in labeled_pairs(source, base, ["no", "yes"])] == [0, 1, 1]

    def test_text_is_matched_by_name(self, base: Path) -> None:
        source = one_file(base, [encoded(n) for n in range(3)], ["cafe\u0301 ", "river", "caf\u00e9"])
        assert [number for _, number in labeled_pairs(source, base, ["river", "caf\u00e9"])] == [1, 0, 1]
        with pytest.raises(ImageFolderError, match=r"has 'river', which is no class \(did you mean 'River'\?\)"):
            labeled_pairs(source, base, ["River", "caf\u00e9"])

    def test_text_of_whole_numbers_is_a_name_where_all_are_names_and_else_a_place(self, base: Path) -> None:
        source = one_file(base, [encoded(n) for n in range(3)], ["2", "0", "1"])
        assert [number for _, number in labeled_pairs(source, base, NAMES)] == [2, 0, 1]
        assert [number for _, number in labeled_pairs(source, base, ["1", "2", "0"])] == [1, 2, 0]
        source = one_file(base, [encoded(n) for n in range(3)], ["2", "0", "sea"])
        with pytest.raises(ImageFolderError, match="column label has '0', which is no class"):
            labeled_pairs(source, base, NAMES)

    def test_a_categorical_column_beside_plain_bytes_as_data_frames_have_them(self, base: Path) -> None:
        labels = ["lake", "sea", "lake", "river"]
        images = [encoded(n) for n in range(4)]
        table = pa.table({"image": pa.array(images), "label": pa.array(labels).dictionary_encode()})
        pq.write_table(table, base / "one.parquet")
        found = labeled_pairs(ImageSource("one.parquet"), base, NAMES)
        assert [(path.read_bytes(), NAMES[number]) for path, number in found] == list(zip(images, labels, strict=True))

    def test_images_within_structs(self, base: Path) -> None:
        images = [encoded(n) for n in range(3)]
        inner = [{"image": {"bytes": data, "path": None}, "seen": {"mask": data}} for data in images]
        pq.write_table(pa.table({"sample": inner, "label": [2, 0, 1]}), base / "one.parquet")
        with pytest.raises(ImageFolderError, match="the image column 'sample' has another form"):
            labeled_pairs(ImageSource("one.parquet", image="sample"), base, NAMES)
        for image in (None, "sample.image", "sample.seen.mask"):
            found = labeled_pairs(ImageSource("one.parquet", image=image), base, NAMES)
            assert [(path.read_bytes(), number) for path, number in found] == list(zip(images, [2, 0, 1], strict=True))

    def test_names_decide_where_they_match(self, base: Path) -> None:
        found = labeled_pairs(SOURCE, base, ["lake ", "sea", "river"])
        assert [number for _, number in found] == [{0: 1, 1: 2, 2: 0}[n % 3] for n in range(12)]

    def test_other_names_are_in_the_order_of_numbers(self) -> None:
        """As CLIP's descriptions of traffic signs are for the bare numbers of the data set."""
        assert class_numbers(["0", "1", "2"], ["red circle", "blue square", "yellow"], "file") == [0, 1, 2]
        assert class_numbers(["annual crop", "forest", "river"], ["annual crop land", "forest", "a river"], "file") == [0, 1, 2]

    def test_a_name_at_another_place_is_refused(self) -> None:
        with pytest.raises(ImageFolderError, match="class 'forest' is number 0 of the task and number 1 of the files"):
            class_numbers(["annual crop", "forest"], ["forest", "annual crop land"], "file")
        with pytest.raises(ImageFolderError, match="number 1 of the files, there called 'Forest', and not all names"):
            class_numbers(["Sea", "Forest"], ["forest", "sea"], "file")
        assert class_numbers(["Sea", "Forest"], ["sea", "forest"], "file") == [0, 1]  # the order says the same

    def test_other_counts_are_refused_with_what_differs(self, base: Path) -> None:
        with pytest.raises(
            ImageFolderError, match="labels of 3 classes, and the task has 2 classes: only in the files: 'lake'"
        ):
            labeled_pairs(SOURCE, base, ["sea", "river"])
        with pytest.raises(ImageFolderError, match="only in the task: 'pond'"):
            labeled_pairs(SOURCE, base, [*NAMES, "pond"])

    @given(st.permutations([f"class {n}" for n in range(6)]), st.data())
    def test_mapping_by_name_is_the_permutation(self, names: list[str], data: st.DataObject) -> None:
        classes = data.draw(st.permutations(names))
        mapped = class_numbers([f" {name}" for name in names], classes, "file")
        assert [classes[number] for number in mapped] == names

    @pytest.mark.parametrize(
        ("labels", "names", "message"),
        [
            ([0, -1, 2], NAMES, "row 1 has label -1, and the 3 classes of the task are numbered from 0 to 2"),
            ([0, 1, 3], None, "row 2 has label 3"),
            ([0, None, 1], NAMES, "row 1 has no label"),
            ([0, 0, 1], NAMES, "class 'lake' has no image; add images"),
        ],
    )
    def test_rows_refused(self, base: Path, labels: list[Any], names: list[str] | None, message: str) -> None:
        source = one_file(base, [encoded(n) for n in range(3)], labels, names)
        with pytest.raises(ImageFolderError, match=message):
            labeled_pairs(source, base, NAMES)


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
        with pytest.raises(ImageFolderError, match=r"needs pyarrow; install it with: pip install 'mingle-edge\[data\]'"):
            labeled_pairs(SOURCE, base, NAMES)


def test_decoding_is_what_pillow_makes_of_the_bytes(base: Path) -> None:
    from PIL import Image

    path, _ = labeled_pairs(SOURCE, base, NAMES)[4]
    with Image.open(path) as ours, Image.open(io.BytesIO(encoded(4))) as theirs:
        assert ours.tobytes() == theirs.tobytes()
