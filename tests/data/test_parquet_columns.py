"""Columns of parquet files: which hold images and labels, and the class that every label means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_parquet import IMAGE, encoded, labeled_pairs, write_shard
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.parquet_columns import class_numbers

NAMES = ["sea", "river", "lake"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def one_file(base: Path, *arguments: Any, **options: Any) -> ImageSource:
    write_shard(base / "one.parquet", *arguments, **options)
    return ImageSource("one.parquet")


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
        source = one_file(base, [encoded(n) for n in range(12)], [n % 3 for n in range(12)], NAMES)
        found = labeled_pairs(source, base, ["lake ", "sea", "river"])
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
        source = one_file(base, [encoded(n) for n in range(3)], [0, 1, 2], NAMES)
        with pytest.raises(
            ImageFolderError, match="labels of 3 classes, and the task has 2 classes: only in the files: 'lake'"
        ):
            labeled_pairs(source, base, ["sea", "river"])
        with pytest.raises(ImageFolderError, match="only in the task: 'pond'"):
            labeled_pairs(source, base, [*NAMES, "pond"])

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
