"""Whole data sets read by a split, local and on the hub: ImageFolders of `datasets`, tables, parquet files."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import pytest
from hub_cache import write_folder
from hub_parquet import encoded, labeled_pairs, write_shard

from mingle_edge.core.errors import HubError, ImageFolderError
from mingle_edge.data.found_images import FoundImages
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import draw_calibration_images, read_calibration_images, read_labeled
from mingle_edge.data.task_file import TaskSource

NAMES = ["sea", "lake"]
TEST = ImageSource("set", usual_split="test")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put(folder: Path, **images: int) -> None:
    """Write numbered images under names whose slashes are written as two underscores."""
    for name, number in images.items():
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))


def content(source: ImageSource, base: Path) -> list[tuple[bytes, str]]:
    return [(path.read_bytes(), NAMES[label]) for path, label in labeled_pairs(source, base, NAMES)]


def table(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("file_name", "label")) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
        return
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    path.write_text(buffer.getvalue(), newline="")


class TestImageFolders:
    @pytest.mark.parametrize("where", ["local", "hub"])
    def test_split_folders_of_class_folders(self, tmp_path: Path, where: str) -> None:
        root = tmp_path / "set"
        put(root / "train", sea__a=0, lake__a=1)
        put(root / "test", sea__a=2, sea__b=3, lake__deep__c=4)
        (root / "test/sea/notes.txt").write_text("no image")
        source = TEST
        if where == "hub":
            write_folder(tmp_path / "hub", "datasets/owner/waters", root)
            source = replace(TEST, files="hf://datasets/owner/waters")
        expected = [(encoded(2), "sea"), (encoded(3), "sea"), (encoded(4), "lake")]
        assert content(source, tmp_path) == expected
        assert content(replace(source, split="train"), tmp_path) == [(encoded(0), "sea"), (encoded(1), "lake")]
        seen: list[tuple[object, ...]] = []
        found = read_labeled(source, tmp_path, NAMES, lambda *state: seen.append(state)).found
        assert seen == [("data set", 1, 1, f"{source.files}, split test of test, train")]
        assert found == FoundImages(f"{source.files}, split test of test, train", 3, {"sea": 2, "lake": 1}, {"no image": 1})
        assert json.loads(json.dumps(asdict(found)))["per_class"] == {"sea": 2, "lake": 1}

    def test_a_folder_that_is_not_divided(self, tmp_path: Path) -> None:
        put(tmp_path / "set", sea__a=0, lake__a=1)
        assert content(TEST, tmp_path) == [(encoded(0), "sea"), (encoded(1), "lake")]
        with pytest.raises(ImageFolderError, match="set has no split 'test'; it has 'lake', 'sea'"):
            content(ImageSource("set", split="test"), tmp_path)

    def test_only_what_is_asked_for_of_the_hub_is_needed_in_the_cache(self, tmp_path: Path) -> None:
        put(tmp_path / "set", test__sea__a=0, test__lake__a=1)
        write_folder(tmp_path / "hub", "datasets/owner/waters", tmp_path / "set")
        source = ImageSource("hf://datasets/owner/waters", usual_split="test")
        assert len(content(source, tmp_path)) == 2
        with pytest.raises(ImageFolderError, match="hf://datasets/owner/waters has no split 'train'; it has 'test'"):
            content(replace(source, split="train"), tmp_path)
        with pytest.raises(HubError, match=r"run: hf download owner/gone --repo-type dataset$"):
            content(replace(source, files="hf://datasets/owner/gone"), tmp_path)


class TestMetadata:
    @pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
    @pytest.mark.parametrize("where", ["within the split", "above it", "on the hub"])
    def test_names_files_and_labels(self, tmp_path: Path, name: str, where: str) -> None:
        root = tmp_path / "set"
        put(root, train__x=0, test__a=1, test__b__c=2, test__d=3)
        rows = [("a.png", "lake"), ("b/c.png", "sea")]
        if where == "above it":
            table(root / name, [("train/x.png", "sea"), *((f"test/{file}", label) for file, label in rows)])
        else:
            table(root / "test" / name, rows)
            table(root / "train" / name, [("x.png", "sea")])
        source = TEST
        if where == "on the hub":
            write_folder(tmp_path / "hub", "datasets/o/n", root)
            source = replace(TEST, files="hf://datasets/o/n")
        assert content(source, tmp_path) == [(encoded(1), "lake"), (encoded(2), "sea")]
        found = read_labeled(source, tmp_path, NAMES).found
        assert found is not None
        assert found.taken == f"{source.files}, split test of test, train: {name}"
        assert found.skipped == {"in no table": 1} | ({"of other splits": 1} if where == "above it" else {})

    def test_without_labels_leaves_them_to_folders(self, tmp_path: Path) -> None:
        put(tmp_path / "set", sea__a=0, lake__a=1)
        table(tmp_path / "set/metadata.csv", [("sea/a.png", "a boat"), ("lake/a.png", "a duck")], ("file_name", "text"))
        assert content(TEST, tmp_path) == [(encoded(0), "sea"), (encoded(1), "lake")]
        with pytest.raises(ImageFolderError, match="the columns are 'text'"):
            content(replace(TEST, label="kind"), tmp_path)

    def test_without_labels_or_folders_is_refused(self, tmp_path: Path) -> None:
        put(tmp_path / "set", a=0)
        table(tmp_path / "set/metadata.csv", [("a.png", "a boat")], ("file_name", "text"))
        with pytest.raises(ImageFolderError, match=r"metadata\.csv has no column that may be the label .*name it: label = "):
            content(TEST, tmp_path)

    def test_images_of_which_nothing_says_a_class(self, tmp_path: Path) -> None:
        put(tmp_path / "set", a=0, b=1)
        with pytest.raises(
            ImageFolderError, match=r"set holds neither class folders nor metadata\.csv or metadata\.jsonl with"
        ):
            content(TEST, tmp_path)

    def test_a_column_where_there_is_no_table(self, tmp_path: Path) -> None:
        put(tmp_path / "set", sea__a=0, lake__a=1)
        with pytest.raises(ImageFolderError, match=r"a column is named, .*without metadata\.csv or metadata\.jsonl; remove it"):
            content(replace(TEST, label="label"), tmp_path)

    @pytest.mark.parametrize("file", ["../secret.png", "/etc/passwd", "C:\\secret.png", "a/../../secret.png"])
    def test_names_nothing_outside(self, tmp_path: Path, file: str) -> None:
        put(tmp_path / "set", a=0)
        (tmp_path / "secret.png").write_bytes(encoded(1))
        table(tmp_path / "set/metadata.csv", [("a.png", "sea"), (file, "lake")])
        with pytest.raises(ImageFolderError, match=r"metadata\.csv: line 3 names .* which leaves the folder of its data set"):
            content(TEST, tmp_path)


class TestTables:
    @pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
    @pytest.mark.parametrize("labels", [["sea", "lake", "sea"], ["0", "1", "0"]])
    def test_paths_and_labels(self, tmp_path: Path, suffix: str, labels: list[str]) -> None:
        put(tmp_path / "images", a=0, b=1)
        (tmp_path / "elsewhere.png").write_bytes(encoded(2))
        (tmp_path / "lists").mkdir()
        files = ["../images/a.png", str(tmp_path / "images/b.png"), "../elsewhere.png"]
        table(tmp_path / f"lists/test.{suffix}", list(zip(files, labels, strict=True)), ("path", "class"))
        source = ImageSource(f"lists/test.{suffix}")
        assert content(source, tmp_path) == [(encoded(0), "sea"), (encoded(1), "lake"), (encoded(2), "sea")]
        assert len(draw_calibration_images(source, tmp_path, NAMES, 1, seed=0).paths) == 2

    def test_commas_quotes_and_named_columns(self, tmp_path: Path) -> None:
        put(tmp_path, **{"a, b": 0, "c": 1})
        rows = [("a, b.png", "sea"), ("c.png", "lake")]
        table(tmp_path / "all.csv", rows, ("picture", "kind"))
        assert content(ImageSource("all.csv", image="picture", label="kind"), tmp_path) == [
            (encoded(0), "sea"),
            (encoded(1), "lake"),
        ]
        with pytest.raises(ImageFolderError, match=r"all\.csv has no column that may be the image .*columns 'picture', 'kind'"):
            content(ImageSource("all.csv"), tmp_path)

    def test_numbers_in_json(self, tmp_path: Path) -> None:
        put(tmp_path, a=0, b=1)
        (tmp_path / "all.jsonl").write_text('{"file": "a.png", "label": 1}\n\n{"file": "b.png", "label": 0, "more": [1]}\n')
        assert content(ImageSource("all.jsonl"), tmp_path) == [(encoded(0), "lake"), (encoded(1), "sea")]

    def test_on_the_hub_with_what_it_names(self, tmp_path: Path) -> None:
        put(tmp_path / "set/lists", a=0, b=1)
        table(tmp_path / "set/lists/test.csv", [("a.png", "sea"), ("b.png", "lake")])
        write_folder(tmp_path / "hub", "datasets/o/n", tmp_path / "set")
        source = ImageSource("hf://datasets/o/n/lists/test.csv")
        assert content(source, tmp_path) == [(encoded(0), "sea"), (encoded(1), "lake")]
        table(tmp_path / "set/lists/test.csv", [("/etc/passwd", "sea")])
        write_folder(tmp_path / "hub", "datasets/o/m", tmp_path / "set")
        with pytest.raises(ImageFolderError, match="leaves the folder of its data set"):
            content(replace(source, files="hf://datasets/o/m/lists/test.csv"), tmp_path)

    def test_what_is_named_twice_counts_once(self, tmp_path: Path) -> None:
        put(tmp_path, a=0, b=1)
        table(tmp_path / "all.csv", [("a.png", "sea"), ("b.png", "lake"), ("./a.png", "sea")])
        found = read_labeled(ImageSource("all.csv"), tmp_path, NAMES).found
        assert found == FoundImages("all.csv", 2, {"sea": 1, "lake": 1}, {"named twice": 1})

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "has no column that may be the image|class 'sea' has no image"),
            ("file_name,label\n", "class 'sea' has no image"),
            ("file_name,label\na.png,sea\na.png,lake\n", "line 3 gives 'a.png' the label 'lake', and an earlier line 'sea'"),
            ("file_name,label\na.png\n", "line 2 has 1 values, and line 1 names 2 columns"),
            ("file_name,label\na.png,sea,x\n", "line 2 has 3 values"),
            ("file_name,label\na.png,\n", "line 2: label is missing"),
            ("file_name,label\n,sea\n", "line 2 has no file_name"),
            ("file_name,label\ngone.png,sea\n", r"line 2 names .*gone\.png, which does not exist"),
            ('file_name,label\n"a.png,sea\n', "is no valid CSV"),
            ("file_name,label,label\na.png,sea,sea\n", "names a column twice"),
            ("a.png,sea\n", "no column that may be the image"),
            ("file_name,label\na.png,Sea\n", r"has 'Sea', which is no class \(did you mean 'sea'\?\)"),
            ("file_name,label\na.png,2\n", "has label 2, and the 2 classes of the task are numbered"),
            (f"file_name,label\na.png,{'x' * 200_000}\n", "is no valid CSV|which is no class"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, message: str) -> None:
        put(tmp_path, a=0)
        (tmp_path / "all.csv").write_text(text)
        with pytest.raises(ImageFolderError, match=message):
            content(ImageSource("all.csv"), tmp_path)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "line 1 is no valid JSON"),
            ("[" * 100_000, "line 1 is no valid JSON"),
            ("3", "line 1 is 3, no JSON object"),
            ('{"file": "a.png", "label": 1.5}', "label is 1.5, no name or whole number"),
            ('{"file": "a.png", "label": true}', "label is True, no name or whole number"),
            ('{"file": "a.png", "label": ["sea"]}', "no name or whole number"),
            ('{"file": 3, "label": 0}', "line 1 has no file"),
            ('{"file": "a\\u0000.png", "label": 0}', "which no file can be called"),
            ('{"file": "a.png", "label": 0}\n{"file": "b.png", "label": "sea"}', "some labels are numbers and some are text"),
        ],
    )
    def test_lines_of_json_refused(self, tmp_path: Path, line: str, message: str) -> None:
        put(tmp_path, a=0, b=1)
        (tmp_path / "all.jsonl").write_text(line)
        with pytest.raises(ImageFolderError, match=message):
            content(ImageSource("all.jsonl"), tmp_path)


class TestShards:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for split, numbers in {"train": range(6), "validation": range(6, 9), "test": range(9, 13)}.items():
            path = tmp_path / f"set/data/{split}-00000-of-00001.parquet"
            write_shard(path, [encoded(n) for n in numbers], [n % 2 for n in numbers], NAMES)
        return tmp_path / "set"

    def test_parquet_of_a_repository_is_found_by_itself(self, root: Path, tmp_path: Path) -> None:
        write_folder(tmp_path / "hub", "datasets/owner/waters", root)
        for files in ("set", "hf://datasets/owner/waters", "hf://datasets/owner/waters@main"):
            source = ImageSource(files, usual_split="test")
            assert content(source, tmp_path) == [(encoded(n), NAMES[n % 2]) for n in range(9, 13)]
            assert len(content(replace(source, split="val"), tmp_path)) == 3
        found = read_labeled(source, tmp_path, NAMES).found
        assert found is not None
        assert found.taken == "hf://datasets/owner/waters@main, split test of test, train, validation: 1 parquet file"

    def test_a_card_goes_before_names(self, root: Path, tmp_path: Path) -> None:
        (root / "README.md").write_text(
            "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n"
            "  - split: test\n    path: data/validation-*\n---\n"
        )
        write_folder(tmp_path / "hub", "datasets/owner/waters", root)
        for files in ("set", "hf://datasets/owner/waters"):
            assert len(content(ImageSource(files, split="test"), tmp_path)) == 3
        (root / "README.md").write_text("---\nconfigs: [\n---\n")
        with pytest.raises(ImageFolderError, match=r"README\.md begins with a head that is no valid YAML"):
            content(ImageSource("set", split="test"), tmp_path)
        (root / "README.md").write_text("# Waters\n---\nno head\n")
        assert len(content(ImageSource("set", split="test"), tmp_path)) == 4

    def test_a_missing_shard_is_told(self, root: Path, tmp_path: Path) -> None:
        (root / "data/test-00000-of-00001.parquet").rename(root / "data/test-00000-of-00003.parquet")
        with pytest.raises(ImageFolderError, match=r"without test-00001-of-00003\.parquet"):
            content(TEST, tmp_path)

    @pytest.mark.parametrize("pattern", ["data/t{rain,est}-*.parquet", "data/t[re]*-0000[0-9]-of-*.parquet"])
    def test_patterns_of_several(self, root: Path, tmp_path: Path, pattern: str) -> None:
        assert len(content(ImageSource(f"set/{pattern}"), tmp_path)) == 10

    def test_what_braces_name_must_be_there(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(ImageFolderError, match=r"there is no parquet file .*/gone-\*\.parquet"):
            content(ImageSource("set/data/{test,gone}-*.parquet"), tmp_path)

    def test_a_share_is_told(self, root: Path, tmp_path: Path) -> None:
        source = ImageSource("set", split="train", share=(0.0, 0.67))
        found = read_labeled(source, tmp_path, NAMES).found
        assert found is not None
        assert (found.images, found.per_class, found.skipped) == (4, {"sea": 2, "lake": 2}, {"outside of the share": 2})


def test_unlabeled_seeds_are_told_as_well(tmp_path: Path) -> None:
    put(tmp_path / "seeds", a=0, b=1)
    (tmp_path / "seeds/notes.txt").write_text("no image")
    task = TaskSource("sea", "weights", ImageSource("seeds"), NAMES, [], None, None)
    images = read_calibration_images(task, tmp_path, seed=0)
    assert images.found == FoundImages("seeds", 2, {}, {"no image": 1})
    drawn = draw_calibration_images(ImageSource("<class>/*"), tmp_path, ["seeds"], 1, 0)
    assert drawn.found == FoundImages("<class>/*", 2, {"seeds": 2}, {"no image": 1})
    assert Counter(path.suffix for path in images.paths) == {".png": 2}
