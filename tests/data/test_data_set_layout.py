"""Which files of a data set are of a split: layouts as the hub has them, and refusals that name what is there."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.data_set_layout import SPLITS, Layout, find_layout, split_of

SHARDED = ["data/test-00000-of-00001.parquet", *(f"data/train-0000{n}-of-00002.parquet" for n in range(2))]
CONVERTED = [f"{config}/{split}/0000.parquet" for config in ("cropped", "full") for split in ("extra", "train", "test")]
FOLDERS = ["test/sea/a.png", "train/sea/a.png", "train/sea/b.png"]
CIFAR = {
    "configs": [
        {
            "config_name": "fine",
            "default": True,
            "data_files": [{"split": "train", "path": "fine/tr-*"}, {"split": "test", "path": ["fine/te-*"]}],
        },
        {"config_name": "coarse", "data_files": {"train": "coarse/*"}},
    ]
}


def found(
    names: list[str],
    split: str | None = None,
    config: str | None = None,
    card: dict[str, Any] | None = None,
    usual: str | None = None,
) -> Layout:
    return find_layout(names, split, usual, config, card or {}, "set")


@pytest.mark.parametrize(
    ("names", "options", "taken"),
    [
        (SHARDED, {"split": "train"}, SHARDED[1:]),
        (SHARDED, {"usual": "test"}, SHARDED[:1]),
        (SHARDED, {"split": "train", "usual": "test"}, SHARDED[1:]),
        (["README.md", *SHARDED, "preview.png"], {"split": "test"}, SHARDED[:1]),
        (["train.parquet", "val.parquet"], {"split": "validation"}, ["val.parquet"]),
        (["train.parquet", "val.parquet"], {"split": "dev"}, ["val.parquet"]),
        (["cats_train_0001.parquet", "cats_test_0001.parquet"], {"split": "test"}, ["cats_test_0001.parquet"]),
        (["data/train/0.parquet", "data/holdout/0.parquet"], {"split": "holdout"}, ["data/holdout/0.parquet"]),
        (["a-00000-of-00001.parquet", "b-00000-of-00001.parquet"], {"split": "b"}, ["b-00000-of-00001.parquet"]),
        (["a.parquet", "b.parquet"], {}, ["a.parquet", "b.parquet"]),
        (["a.parquet", "b.parquet"], {"split": "train"}, ["a.parquet", "b.parquet"]),
        (["a.parquet", "b.parquet"], {"usual": "test"}, ["a.parquet", "b.parquet"]),
        (CONVERTED, {"split": "train", "config": "full"}, ["full/train/0000.parquet"]),
        (CONVERTED, {"split": "extra", "config": "full"}, ["full/extra/0000.parquet"]),
        (["default/train/0.parquet", "other/train/0.parquet"], {"split": "train"}, ["default/train/0.parquet"]),
        (["one/train-0.parquet"], {"split": "train"}, ["one/train-0.parquet"]),
        (["train/s-000.tar", "train/s-001.tar", "test/s-000.tar"], {"split": "train"}, ["train/s-000.tar", "train/s-001.tar"]),
        (
            ["fine/tr-0.parquet", "fine/te-0.parquet", "coarse/x.parquet"],
            {"card": CIFAR, "split": "test"},
            ["fine/te-0.parquet"],
        ),
        (["fine/tr-0.parquet", "coarse/x.parquet"], {"card": CIFAR, "config": "coarse"}, ["coarse/x.parquet"]),
        (["a/x.parquet", "x.parquet"], {"card": {"configs": [{"data_files": "*.parquet"}]}}, ["x.parquet"]),
        (["a/b/x.parquet", "x.parquet"], {"card": {"configs": [{"data_files": "a/**/*.parquet"}]}}, ["a/b/x.parquet"]),
        (["a/train-0.parquet", "b/train-0.parquet"], {"card": {"configs": [{"data_dir": "b"}]}}, ["b/train-0.parquet"]),
    ],
)
def test_files_of_a_split(names: list[str], options: dict[str, Any], taken: list[str]) -> None:
    layout = found(names, **options)
    assert layout.names == taken
    assert layout.kind == ("webdataset" if taken[0].endswith(".tar") else "parquet")


@pytest.mark.parametrize(
    ("names", "options", "folder"),
    [
        (FOLDERS, {"split": "train"}, "train"),
        (FOLDERS, {"usual": "test"}, "test"),
        (["Train/sea/a.png", "VAL/sea/a.png"], {"split": "validation"}, "VAL"),
        (["sea/a.png", "lake/b.png"], {"usual": "test"}, ""),
        (["train/a.png", "bus/b.png"], {"usual": "test"}, ""),  # classes, of which one is called train
        (["seg_train/sea/a.png", "seg_test/sea/a.png"], {"split": "seg_train"}, "seg_train"),
        (["small/train/sea/a.png", "small/test/sea/a.png"], {"config": "small", "split": "test"}, "small/test"),
        (["x/train/sea/a.png"], {"card": {"configs": [{"data_files": "x/train/**"}]}}, "x/train"),
    ],
)
def test_folders_of_a_split(names: list[str], options: dict[str, Any], folder: str) -> None:
    layout = found(names, **options)
    assert (layout.kind, layout.folder) == ("image folder", folder)
    assert all(name.startswith(folder) for name in layout.names)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (SHARDED, {}, "set is divided into 'test', 'train'; name the split to read: split = "),
        (SHARDED, {"split": "validation"}, "set has no split 'validation'; it has 'test', 'train'; name one of them"),
        (SHARDED, {"split": "tran"}, r"has no split 'tran' \(did you mean 'train'\?\)"),
        (SHARDED, {"config": "full"}, "has no configuration 'full'"),
        (["a.parquet"], {"split": "test"}, "has no split 'test'; it has none by name"),
        (["train.parquet", "x.parquet"], {}, "is divided into 'train'; name the split"),
        (
            CONVERTED,
            {"split": "train"},
            r"has 2 configurations \('cropped', 'full'\), and none is named; add one: config = 'full'",
        ),
        (CONVERTED, {"config": "ful"}, r"has no configuration 'ful' \(did you mean 'full'\?\); it has 'cropped', 'full'"),
        (FOLDERS, {}, "is divided into 'test', 'train'; name"),
        (FOLDERS, {"split": "validation"}, "has no split 'validation'; it has 'test', 'train'"),
        (["sea/a.png", "lake/b.png"], {"split": "test"}, "has no split 'test'; it has 'lake', 'sea'"),
        (["sea/a.png"], {"config": "x"}, "has no configuration 'x', a folder of this name"),
        ([], {}, "set holds no file"),
        (
            ["data/train.zip", "README.md"],
            {"usual": "test"},
            "set has no images, parquet or tar files, but 'data/train.zip', which",
        ),
        (
            ["train/data-00000-of-00001.arrow", "dataset_info.json"],
            {},
            "write it as parquet .to_parquet of the datasets library",
        ),
        (["x.parquet"], {"card": CIFAR, "split": "train"}, r"its README.md names no file for split 'train' .*'fine/tr-\*'"),
        (["x.parquet"], {"card": CIFAR, "config": "medium"}, "it has 'fine', 'coarse'"),
        (
            ["images/a_train.png", "images/a_test.png"],
            {"card": {"configs": [{"data_files": "images/*_train.png"}]}, "split": "train"},
            "names images of several folders, or a part of those in one, for split 'train'",
        ),
        (
            ["a/train/sea/a.png", "b/train/sea/a.png", "b/test/sea/a.png"],
            {"card": {"configs": [{"data_files": ["a/train/**", "b/train/**"]}]}},
            "names images of several folders",
        ),
        (
            ["fine/tr-0.parquet", "fine/tr-1.tar"],
            {"card": CIFAR, "split": "train"},
            "names files of several kinds for split 'train' of configuration 'fine'",
        ),
    ],
)
def test_refused(names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageFolderError, match=message):
        found(names, **options)


def test_a_data_set_of_archives_has_a_conversion_on_the_hub() -> None:
    with pytest.raises(ImageFolderError, match=r"conversion, where it has one: hf://datasets/o/n@refs/convert/parquet$"):
        find_layout(["train.zip"], None, "test", None, {}, "hf://datasets/o/n")


def test_a_card_of_references_to_references_is_not_written_out() -> None:
    """Thirty lists, each twice in the next, are a thousand million when they are."""
    bomb: list[Any] = ["x"]
    for _ in range(30):
        bomb = [bomb, bomb]
    for card in (
        {"configs": [{"config_name": bomb, "data_files": "*"}]},
        {"configs": [{"data_files": bomb}]},
        {"configs": bomb},
    ):
        assert found(SHARDED, "test", card=card).names == SHARDED[:1]


@pytest.mark.parametrize("card", [{"configs": value} for value in (3, "a", [3], [{}], [{"config_name": "a"}], {"a": 1}, None)])
def test_a_card_that_says_nothing_of_files(card: dict[str, Any]) -> None:
    assert found(SHARDED, "test", card=card).names == SHARDED[:1]


WORDS = st.sampled_from([*SPLITS, "data", "full", "part", "a-train", "x"])


@given(st.lists(st.lists(WORDS, min_size=1, max_size=3).map("/".join), unique=True, min_size=1), st.sampled_from(list(SPLITS)))
def test_a_file_is_of_one_split_at_most(stems: list[str], split: str) -> None:
    """What is read for one split is never read for another."""
    names = [f"default/{stem}.parquet" for stem in stems]
    parts: list[set[str]] = []
    for asked in ("train", "validation", "test"):
        try:
            parts.append(set(found(names, asked).names))
        except ImageFolderError:
            continue
    divided = {split_of(name) for name in names} != {None}
    assert not divided or sum(map(len, parts)) == len(set().union(*parts))
    with contextlib.suppress(ImageFolderError):
        assert set(found(names, split).names) in parts
