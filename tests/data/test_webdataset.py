"""Images in tar files as the webdataset library writes them, and as it reads them: the same images, labels and order."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import braceexpand
import huggingface_hub
import pytest
import webdataset
from hub_cache import write_folder
from hub_parquet import encoded, labeled_pairs
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.found_images import FoundImages
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import draw_calibration_images, read_labeled
from mingle_edge.files.file_pattern import braces_expanded

NAMES = ["sea", "river", "lake"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_shards(folder: Path, samples: Sequence[dict[str, Any]], per_shard: int = 100) -> None:
    """Write samples with the library, under keys that are their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/shard-%06d.tar", maxcount=per_shard, verbose=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:05d}"} | sample)


def read_by_the_library(path: Path) -> list[dict[str, Any]]:
    """Return the samples of one file."""
    with path.open("rb") as stream:
        members = webdataset.tariterators.tar_file_expander([{"url": path.name, "stream": stream}])
        return list(webdataset.tariterators.group_by_keys(members))


def content(source: ImageSource, base: Path) -> list[tuple[bytes, int]]:
    return [(path.read_bytes(), label) for path, label in labeled_pairs(source, base, NAMES)]


SAMPLES = [{"jpg": encoded(n, "JPEG"), "cls": n % 3} for n in range(11)]
ANSWERS = [(encoded(n, "JPEG"), n % 3) for n in range(11)]


def test_what_the_library_writes_and_reads(tmp_path: Path, cache: Path) -> None:
    write_shards(tmp_path / "train", SAMPLES, per_shard=4)
    pattern = "train/shard-{000000..000002}.tar"
    samples = [sample for path in braceexpand.braceexpand(pattern) for sample in read_by_the_library(tmp_path / path)]
    read = [(sample["jpg"], int(sample["cls"])) for sample in samples]
    assert content(ImageSource(pattern), tmp_path) == read == ANSWERS
    assert content(ImageSource("train/shard-*.tar"), tmp_path) == read
    assert all(path.suffix == ".jpeg" for path in cache.rglob("0*"))


def test_drawn_images_alone_become_files(tmp_path: Path, cache: Path) -> None:
    write_shards(tmp_path, SAMPLES, per_shard=4)
    drawn = draw_calibration_images(ImageSource("*.tar"), tmp_path, NAMES, 2, seed=0).paths
    assert len(list(cache.rglob("*.jpeg"))) == len(drawn) == 6
    assert {path.read_bytes() for path in drawn} < {image for image, _ in ANSWERS}


@pytest.mark.parametrize("label", [{"txt": "river"}, {"json": {"label": 1}}, {"json": {"label": "river"}}, {"json": 1}])
def test_labels_in_words_and_json(tmp_path: Path, label: dict[str, Any]) -> None:
    write_shards(tmp_path, [{"png": encoded(1)} | label])
    assert read_by_the_library(tmp_path / "shard-000000.tar")[0].keys() >= {"png", *label}
    assert labels(tmp_path, ImageSource("*.tar")) == [1]


def labels(folder: Path, source: ImageSource) -> list[int]:
    """Labels alone, of which some class may have none."""
    from mingle_edge.data.sharded_images import ShardedImages

    return ShardedImages(sorted(folder.glob("*.tar")), source, NAMES, parquet=False).labels


def test_which_member_is_the_label(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"png": encoded(0), "cls": 2, "txt": "a photo", "json": {"label": 1, "kind": "sea"}}])
    assert labels(tmp_path, ImageSource("*.tar")) == [2]
    assert labels(tmp_path, ImageSource("*.tar", label="json")) == [1]
    assert labels(tmp_path, ImageSource("*.tar", label="json.kind")) == [0]
    with pytest.raises(ImageFolderError, match="label has 'a photo', which is no class"):
        labels(tmp_path, ImageSource("*.tar", label="txt"))


def test_which_member_is_the_image(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"jpg": encoded(0, "JPEG"), "png": encoded(1), "seg.png": encoded(2), "cls": n} for n in range(3)])
    with pytest.raises(
        ImageFolderError, match=r"sample '00000' has 2 members that may be the image; name one: image = \"jpg\""
    ):
        content(ImageSource("*.tar"), tmp_path)
    assert content(ImageSource("*.tar", image="png"), tmp_path) == [(encoded(1), n) for n in range(3)]
    assert content(ImageSource("*.tar", image="seg.png"), tmp_path)[0][0] == encoded(2)
    assert content(ImageSource("*.tar", image="jpg"), tmp_path)[0][0] == encoded(0, "JPEG")


def test_on_the_hub_and_as_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    write_shards(tmp_path / "set/train", SAMPLES[:2])
    write_shards(tmp_path / "set/test", SAMPLES, per_shard=6)
    write_folder(tmp_path / "hub", "datasets/owner/waters", tmp_path / "set")
    for files in ("hf://datasets/owner/waters/test/shard-{000000..000001}.tar", "hf://datasets/owner/waters"):
        assert content(ImageSource(files, usual_split="test"), tmp_path) == ANSWERS
    (tmp_path / "hub/datasets--owner--waters/snapshots").rename(tmp_path / "hub/datasets--owner--waters/gone")
    write_folder(tmp_path / "hub", "datasets/owner/waters", tmp_path / "set/test")
    with pytest.raises(ImageFolderError, match=r"there is no tar file .*shard-000002\.tar"):
        content(ImageSource("hf://datasets/owner/waters/shard-{000000..000002}.tar"), tmp_path)


def test_what_was_found(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"png": encoded(n), "cls": n, "txt": "a caption"} for n in range(3)])
    with tarfile.open(tmp_path / "shard-000000.tar", "a") as archive:
        for name in ("README", "._00001.png", "folder"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name == "folder" else tarfile.REGTYPE
            archive.addfile(member)
    found = read_labeled(ImageSource("*.tar"), tmp_path, NAMES).found
    skipped = {"members that are neither image nor label": 3, "without a suffix": 1, "hidden": 1}
    assert found == FoundImages("*.tar, 1 tar file", 3, dict.fromkeys(NAMES, 1), skipped)


def test_archives_of_tar_itself(tmp_path: Path) -> None:
    """Packed from a folder, with long names and names that are no ASCII, in every dialect."""
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{dialect}.tar"
        with tarfile.open(path, "w", format=dialect) as archive:
            for number in range(3):
                folder = "" if dialect == tarfile.USTAR_FORMAT else f"./caf\u00e9.d/{'x' * 150}/"
                for suffix, data in (("PNG", encoded(number)), ("cls", str(number).encode())):
                    member = tarfile.TarInfo(f"{folder}{number}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        assert content(ImageSource(path.name), tmp_path) == [(encoded(n), n) for n in range(3)]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            [{"png": encoded(0)}],
            r"sample '00000' has no member that is its label \(such as \.cls, \.txt, \.json\), but '\.png'",
        ),
        ([{"cls": 0}], r"sample '00000' has no member that is its image \(such as \.jpg\), but '\.cls'"),
        ([{"png": encoded(0), "txt": "sea", "json": {}}], 'has 2 members that may be the label; name one: label = "txt"'),
        ([{"png": encoded(0), "cls": 3}], "has label 3, and the 3 classes of the task are numbered from 0 to 2"),
        ([{"png": encoded(0), "cls": -1}], "has label -1"),
        ([{"png": encoded(0), "txt": "Sea"}], r"label has 'Sea', which is no class \(did you mean 'sea'\?\)"),
        ([{"png": encoded(0), "txt": b"\xff\xfe"}], r"'00000\.txt' is no valid text in UTF-8"),
        ([{"png": encoded(0), "json": b"{"}], r"'00000\.json' is no valid JSON"),
        ([{"png": encoded(0), "json": b"[" * 100_000}], r"'00000\.json' is no valid JSON"),
        ([{"png": encoded(0), "json": b"[1]"}], r"'00000\.json' says \[1\], no name or whole number"),
        ([{"png": encoded(0), "json": {"caption": "x"}}], "name the field: label = \"json.FIELD\"; it has 'caption'"),
        ([{"png": encoded(0), "json": {"label": 0.5}}], "says 0.5, no name or whole number"),
        ([{"png": encoded(0), "cls": 0}, {"png": encoded(0), "cls": b"sea"}], "some labels are numbers and some are text"),
        ([{"png": b"no image", "cls": n} for n in range(3)], r"the image of '00000\.png' cannot be read"),
    ],
)
def test_samples_refused(tmp_path: Path, samples: list[dict[str, Any]], message: str) -> None:
    write_shards(tmp_path, samples)
    with pytest.raises(ImageFolderError, match=rf"shard-000000\.tar.*{message}"):
        content(ImageSource("*.tar"), tmp_path)


NUMBER = st.integers(0, 120).map(str) | st.integers(0, 120).map("{:03d}".format)
GROUP = st.tuples(NUMBER, NUMBER).map(lambda ends: f"{{{ends[0]}..{ends[1]}}}") | st.sampled_from(
    ("{a,b}", "{train,val,}", "{a,{b,c}}", "{x}", "{}", "a", "*.tar", "[0-9]")
)


@given(st.lists(GROUP, max_size=3).map("-".join))
def test_braces_mean_what_the_library_takes_them_for(pattern: str) -> None:
    theirs = set(braceexpand.braceexpand(pattern))
    assert set(braces_expanded(pattern)) == theirs


def test_braces_for_more_names_than_can_be_meant() -> None:
    for pattern in ("{0..999999999}", "{0..999}{0..999}", "{a,b}" * 40, "{a,b}" + "x" * 5000):
        with pytest.raises(ValueError, match="its braces stand for more than 100000 names"):
            braces_expanded(pattern)
    with pytest.raises(ImageFolderError, match=r"is malformed \(its braces stand for more than"):
        read_labeled(ImageSource("{0..999999999}.tar"), Path(), NAMES)
