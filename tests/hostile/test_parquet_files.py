"""Parquet files with columns of other types, nulls, lies about sizes, and damage: file, column and row are named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_parquet import IMAGE, encoded, labeled_pairs

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data import parquet_images
from mingle_edge.data.image_source import ImageSource

NAMES = ["sea", "river"]
CONTENT = [{"bytes": encoded(n), "path": None} for n in range(4)]
MARKED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(base: Path, features: Any = MARKED, **columns: Any) -> ImageSource:
    """A file of these columns, as its features mark them."""
    given = {"image": pa.array(CONTENT, IMAGE), "label": pa.array([0, 1, 0, 1])} | columns
    table = pa.table({name: column for name, column in given.items() if column is not None})
    metadata = features if isinstance(features, bytes) else json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), base / "a.parquet")
    return ImageSource("a.parquet")


def labels(base: Path, source: ImageSource) -> list[int]:
    return [label for _, label in labeled_pairs(source, base, NAMES)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["sea", "river", "sea", "river"]).dictionary_encode(),
        pa.array([0, 1, 0, 1], pa.int8()).dictionary_encode(),
        pa.array(["sea", "river", "sea", "river"], pa.large_string()),
        pa.array([0, 1, 0, 1], pa.uint64()),
        pa.array([False, True, False, True]),
    ],
    ids=lambda column: str(column.type),
)
def test_labels_of_every_type_that_says_a_class(tmp_path: Path, column: pa.Array) -> None:
    features = MARKED if pa.types.is_integer(column.type) else {}
    assert labels(tmp_path, write(tmp_path, features, label=column)) == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0.0, 1.0, 0.0, 1.0]),
        pa.array([0.0, 1.0, 0.0, float("nan")], pa.float32()),
        pa.array([[0], [1], [], None]),
        pa.array([{"a": 1}] * 4),
        pa.array([b"sea"] * 4),
        pa.array([1, 2, 3, 4], pa.timestamp("s")),
        pa.array([[0], [1], [0], [1]], pa.list_(pa.int64(), 1)),
        pa.nulls(4),
    ],
    ids=lambda column: str(column.type),
)
def test_labels_of_other_types_are_refused_even_where_they_are_marked(tmp_path: Path, column: pa.Array) -> None:
    source = write(tmp_path, label=column)
    with pytest.raises(ImageFolderError, match=r"a\.parquet has no column that may be the label; name it: label = "):
        labels(tmp_path, source)
    with pytest.raises(ImageFolderError, match=r"a\.parquet: the label column 'label' has another form than whole numbers"):
        labels(tmp_path, ImageSource(source.files, label="label"))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([0, None, 0, 1]), r"a\.parquet: row 1 has no label"),
        (pa.array(["sea", "river", None, "sea"]).dictionary_encode(), r"a\.parquet: row 2 has no label"),
        (pa.array([0, 1, 1 << 62, 1]), r"a\.parquet: row 2 has label 4611686018427387904"),
        (pa.array([0, 1, 0, (1 << 64) - 1], pa.uint64()), r"a\.parquet: row 3 has label 18446744073709551615"),
        (pa.array(["sea", "river", "x" * 10**6, "sea"]), r"a\.parquet: column label has 'xx.{0,80}, which is no class"),
    ],
)
def test_rows_without_a_class(tmp_path: Path, column: pa.Array, message: str) -> None:
    with pytest.raises(ImageFolderError, match=message):
        labels(tmp_path, write(tmp_path, {}, label=column))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([None, *CONTENT[1:]], IMAGE), "row 0 has no bytes in column image"),
        (pa.array([{"bytes": None, "path": "a.png"}, *CONTENT[1:]], IMAGE), "row 0 has no bytes in column image"),
        (pa.array([*CONTENT[:3], {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n"}], IMAGE), "the image of row 3 cannot be read"),
        (pa.array([{"bytes": "text", "path": ""}] * 4), "no column that may be the image"),
        (pa.array([{"bytes": 3, "path": ""}] * 4), "no column that may be the image"),
        (pa.array([[c] for c in CONTENT], pa.list_(IMAGE)), "no column that may be the image"),
        (pa.array([c["bytes"].hex() for c in CONTENT]), "no column that may be the image"),
    ],
)
def test_images_that_are_none(tmp_path: Path, column: pa.Array, message: str) -> None:
    with pytest.raises(ImageFolderError, match=rf"a\.parquet.* {message}"):
        labels(tmp_path, write(tmp_path, image=column))


def test_a_column_that_is_called_as_the_part_of_another(tmp_path: Path) -> None:
    source = write(tmp_path, **{"image.bytes": pa.array([b"no image"] * 4)})
    for (path, _), content in zip(labeled_pairs(source, tmp_path, NAMES), CONTENT, strict=True):
        assert path.read_bytes() == content["bytes"]


def test_labels_in_a_column_that_is_called_as_the_part_of_another(tmp_path: Path) -> None:
    source = write(tmp_path, {}, label=None, **{"image.bytes": pa.array([0, 1, 1, 0])})
    assert labels(tmp_path, source) == [0, 1, 1, 0]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(CONTENT, IMAGE), pa.array([0, 1, 0, 1]), pa.array([1] * 4)], ["image", "label", "label"]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ImageFolderError, match="no column that may be the label"):
        labels(tmp_path, ImageSource("a.parquet"))
    with pytest.raises(ImageFolderError, match="the label column 'label' is there more than once"):
        labels(tmp_path, ImageSource("a.parquet", label="label"))


@pytest.mark.parametrize(
    "features",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b"3",
        b'{"info": 3}',
        [],
        {"label": 3},
        {"label": {"_type": []}},
        {"label": {"_type": "ClassLabel"}},
    ],
)
def test_features_that_say_nothing_are_as_none(tmp_path: Path, features: Any) -> None:
    assert labels(tmp_path, write(tmp_path, features)) == [0, 1, 0, 1]


@pytest.mark.parametrize("names", [3, "sea", [1, 2], [None, "sea"], {}])
def test_class_names_that_are_no_strings(tmp_path: Path, names: Any) -> None:
    source = write(tmp_path, {"label": {"_type": "ClassLabel", "names": names}})
    with pytest.raises(ImageFolderError, match=r"a\.parquet: the class names of column label are not a list of strings"):
        labels(tmp_path, source)


class TestSizes:
    def test_more_rows_than_fit_in_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run-length code of a few bytes stands for any number of equal labels."""
        rows = 200_000
        pq.write_table(
            pa.table({"label": pa.nulls(rows).cast(pa.int64()), "image": pa.nulls(rows, IMAGE)}), tmp_path / "a.parquet"
        )
        assert (tmp_path / "a.parquet").stat().st_size < rows // 50
        monkeypatch.setattr(parquet_images, "MOST_ROWS", rows - 1)
        with pytest.raises(ImageFolderError, match=rf"a\.parquet has {rows} rows, and at most {rows - 1} of a file are read"):
            labels(tmp_path, ImageSource("a.parquet"))

    def test_images_that_expand(self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet_images, "LEAST_EXPANDED", 1 << 20)
        bomb = [{"bytes": bytes(1 << 18), "path": ""}] * 8
        table = pa.table({"image": pa.array(bomb, IMAGE), "label": [0, 1] * 4})
        pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
        assert (tmp_path / "a.parquet").stat().st_size < 1 << 16
        with pytest.raises(
            ImageFolderError, match=r"a\.parquet: column image\.bytes says that its \d+ bytes of row group 0 become"
        ):
            labels(tmp_path, ImageSource("a.parquet"))
        assert not cache.exists() or not list(cache.rglob("*.png"))


class TestPlaces:
    @pytest.mark.parametrize("pattern", ["a**.parquet", "\0.parquet", "x" * 5000 + ".parquet"])
    def test_patterns_that_name_nothing(self, tmp_path: Path, pattern: str) -> None:
        write(tmp_path)
        with pytest.raises(ImageFolderError):
            labels(tmp_path, ImageSource(pattern))

    def test_a_name_that_is_no_utf8(self, tmp_path: Path, cache: Path) -> None:
        write(tmp_path)
        folder = tmp_path / os.fsdecode(b"caf\xe9")
        folder.mkdir()
        (tmp_path / "a.parquet").rename(folder / os.fsdecode(b"\xff.parquet"))
        assert labels(tmp_path, ImageSource("**/*.parquet")) == [0, 1, 0, 1]
        assert any(b"caf\xe9/\xff.parquet" in path.read_bytes() for path in cache.rglob(".source"))

    def test_what_else_lies_in_the_cache_is_left_alone(self, tmp_path: Path, cache: Path) -> None:
        source = write(tmp_path)
        labels(tmp_path, source)
        (folder,) = (cache / "images").iterdir()
        (folder / "notes.txt").write_text("mine")
        (folder / "0000001.png").unlink()
        assert labels(tmp_path, source) == [0, 1, 0, 1]
        assert (folder / "notes.txt").read_text() == "mine"

    def test_a_cache_that_cannot_be_written(self, tmp_path: Path, cache: Path) -> None:
        cache.write_text("a file")
        with pytest.raises(ImageFolderError, match=r"cannot be written \(.*\); .* MINGLE_EDGE_CACHE"):
            labels(tmp_path, write(tmp_path))
