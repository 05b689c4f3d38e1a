"""Every reader of a file, and what may lie there instead: pipes, devices, links, what may not be read, other encodings of text.

None is opened that may keep the process waiting, and the error names what it is: it is neither missing nor damaged.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hub_parquet import encoded, labeled_pairs, write_shard
from special_files import SPECIAL, bound_by_modes, folder_for_all
from tiny_bundle import Weights, images, write_image_bundle
from tiny_clip import tiny_config, write_hugging_face, write_open_clip
from tiny_merged import ARCHITECTURE, write_merged

from devices.device import KINDS as KINDS_OF_DEVICES
from devices.device import DeviceFileError, read_devices
from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.checkpoints.head_file import read_head
from mingle_edge.checkpoints.stored_tensors import open_tensors
from mingle_edge.comparison.kept_cells import KeptCells
from mingle_edge.core.errors import (
    CheckpointError,
    ComparisonError,
    FileError,
    ImageFolderError,
    MergedModelError,
    TaskFileError,
)
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.task_file import read_task_file
from mingle_edge.files.text_file import read_text
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_runtime import BundleError, EdgeError, EdgeModel, ImageError
from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.profile import ProfileReport

TASKS = """
[backbone]
model = "model.json"
weights = "whole.safetensors"
[[task]]
name = "sea"
weights = "whole.safetensors"
seeds = "seeds"
classes = "classes.txt"
"""
CELL = """{"accuracy": {"P1": [[1.0], [2]], "P2": [[null], [2]], "P3": [[null], [2]]}, "seconds": [0.1],
    "stored_bytes": 1, "stored_after": [1], "multiply_adds": [], "unmerged": null,
    "refused": null, "active_bytes": 1, "bytes_per_task": 1, "latency_ratio": null,
    "routes": [[50, 50]], "confusion": [[100]]}"""
SPEC = Preprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Reader(NamedTuple):
    """A file below the folder, what reads it, and the error of whatever may be wrong with it."""

    file: str
    error: type[Exception]
    read: Callable[[Path], Any]


def shards(folder: Path) -> list[str]:
    return open_checkpoint("hub", base=folder, architecture=read_architecture("hub", folder)).names()


def labels(folder: Path, pattern: str) -> list[int]:
    return [label for _, label in labeled_pairs(ImageSource(pattern), folder, ["sea"])]


def served(folder: Path) -> Any:
    with EdgeModel.open(folder / "bundle", check_hashes=True) as model:
        return model.embed(images(0), task="red")


BUNDLE = ("bundle.json", "tower.onnx", "backbone.bin", "heads/red.npy", "experts/red.onnx_adapter")
TEXTS = {
    "task file": Reader("tasks.toml", TaskFileError, lambda folder: read_task_file(folder / "tasks.toml")),
    "classes": Reader("classes.txt", TaskFileError, lambda folder: read_task_file(folder / "tasks.toml").tasks[0].classes),
    "open_clip": Reader("model.json", CheckpointError, lambda folder: read_architecture("model.json", folder)),
    "config.json": Reader("hub/config.json", CheckpointError, lambda folder: read_architecture("hub", folder)),
    "processor": Reader("hub/preprocessor_config.json", CheckpointError, lambda folder: read_architecture("hub", folder)),
    "index of shards": Reader("hub/model.safetensors.index.json", CheckpointError, shards),
    "table": Reader("tables/a.csv", ImageFolderError, lambda folder: labels(folder, "tables/a.csv")),
    "metadata": Reader("tables/metadata.jsonl", ImageFolderError, lambda folder: labels(folder, "tables")),
    "kind of device": Reader("kinds/a.toml", DeviceFileError, lambda folder: read_devices(folder / "kinds")),
}
OTHERS = {
    "merged model": Reader("merged/mingle.json", MergedModelError, lambda folder: MergedModel.open(folder / "merged")),
    **{
        kind: Reader(
            f"merged/{kind}s/task0.safetensors",
            MergedModelError,
            lambda folder, kind=kind: getattr(MergedModel.open(folder / "merged"), kind)("task0"),
        )
        for kind in ("expert", "head")
    },
    "profile": Reader("report.json", EdgeError, lambda folder: ProfileReport.read(folder / "report.json")),
    "safetensors": Reader("whole.safetensors", CheckpointError, lambda folder: open_tensors(folder / "whole.safetensors")),
    "archive": Reader("a.pt", CheckpointError, lambda folder: open_tensors(folder / "a.pt")),
    "folder of weights": Reader("one/model.safetensors", CheckpointError, lambda folder: open_tensors(folder / "one")),
    "classifier": Reader("a.pt", CheckpointError, lambda folder: read_head(folder / "a.pt", ["sea"], ARCHITECTURE, 100.0)),
    "parquet": Reader("parquet/a.parquet", ImageFolderError, lambda folder: labels(folder / "parquet", "a.parquet")),
    "tar": Reader("tars/a.tar", ImageFolderError, lambda folder: labels(folder, "tars/a.tar")),
    "pattern": Reader("parquet/a.parquet", ImageFolderError, lambda folder: labels(folder / "parquet", "**/*.parquet")),
    "picture": Reader("photo.png", ImageError, lambda folder: preprocess(folder / "photo.png", SPEC)),
    "image": Reader("photo.png", ImageFolderError, lambda folder: check_images([folder / "photo.png"])),
    "verified": Reader("bundle/golden.npz", BundleError, lambda folder: verify(folder / "bundle")),
    **{name: Reader(f"bundle/{name}", BundleError, served) for name in BUNDLE},
}
every_text = pytest.mark.parametrize("reader", TEXTS.values(), ids=TEXTS)
every_reader = pytest.mark.parametrize("reader", (TEXTS | OTHERS).values(), ids=TEXTS | OTHERS)


@pytest.fixture(scope="module")
def good() -> Iterator[Path]:
    """A folder with one sound file for each reader."""
    with folder_for_all() as folder:
        (folder / "seeds").mkdir()
        (folder / "tasks.toml").write_text(TASKS)
        (folder / "classes.txt").write_text("calm sea\nécume\n", encoding="utf-8")
        (folder / "model.json").write_text(json.dumps(tiny_config()))
        (folder / "one").mkdir()
        for name in ("whole.safetensors", "a.pt", "one/model.safetensors"):
            write_open_clip(folder / name)
        write_hugging_face(folder / "hub", kind="CLIPVisionModel")
        (folder / "hub/model.safetensors").rename(folder / "hub/model-00001-of-00001.safetensors")
        index = {"weight_map": {"embeddings.class_embedding": "model-00001-of-00001.safetensors"}}
        (folder / "hub/model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "hub/preprocessor_config.json").write_text("{}")
        (folder / "kinds").mkdir()
        (folder / "kinds/a.toml").write_bytes(next(KINDS_OF_DEVICES.glob("*.toml")).read_bytes())
        write_merged(folder / "merged", tasks=1)
        write_image_bundle(folder / "bundle", Weights())
        write_shard(folder / "parquet/a.parquet", [encoded(0)], ["sea"])
        (folder / "photo.png").write_bytes(encoded(0))
        (folder / "tables").mkdir()
        (folder / "tables/a.png").write_bytes(encoded(0))
        (folder / "tables/a.csv").write_text("file_name,label\na.png,sea\n")
        (folder / "tables/metadata.jsonl").write_text('{"file_name": "a.png", "label": "sea"}\n')
        (folder / "tars").mkdir()
        with tarfile.open(folder / "tars/a.tar", "w") as archive:
            for name, content in (("a.png", encoded(0)), ("a.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        (folder / "report.json").write_text("{}")
        yield folder


@pytest.fixture
def path(good: Path, reader: Reader) -> Iterator[Path]:
    """The file of a reader, restored afterwards."""
    path = good / reader.file
    before = path.read_bytes()
    yield path
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(before)


KINDS = SPECIAL | {"nothing": lambda path: None}
NO_PLAIN_FILE = "not a plain file|no plain file|must be a plain file"
ALLOWED = {  # a file may be left out
    ("hub/preprocessor_config.json", "link to nothing"),
    ("hub/preprocessor_config.json", "nothing"),
    ("kinds/a.toml", "nothing"),
}


@pytest.mark.parametrize("kind", KINDS)
@every_reader
def test_what_is_no_plain_file_is_refused_unopened(good: Path, reader: Reader, path: Path, kind: str) -> None:
    path.unlink()
    KINDS[kind](path)
    if (reader.file, kind) in ALLOWED:
        reader.read(good)
        return
    with pytest.raises(reader.error, match=rf"{path.name}|no parquet file .*\*") as caught:
        reader.read(good)
    if "device" in kind or kind in ("pipe", "socket"):
        assert re.search(NO_PLAIN_FILE, str(caught.value))


LOCKED = [
    pytest.param(reader, place, id=f"{name}-{place}")
    for name, reader in (TEXTS | OTHERS).items()
    for place in ("file", "folder")
    if (name, place) != ("kind of device", "folder")  # which counts as one that holds none
]


@pytest.mark.parametrize(("reader", "place"), LOCKED)
def test_what_may_not_be_read_is_neither_missing_nor_damaged(good: Path, reader: Reader, path: Path, place: str) -> None:
    locked = path if place == "file" else path.parent
    locked.chmod(0)
    try:
        with bound_by_modes(), pytest.raises(reader.error, match=r"may not be read|Permission denied") as caught:
            reader.read(good)
    finally:
        locked.chmod(0o755)
    assert not re.search("damaged|exist|missing|no checkpoint", str(caught.value))


@pytest.mark.parametrize("reader", [*TEXTS.values(), OTHERS["merged model"], OTHERS["profile"]], ids=lambda reader: reader.file)
def test_text_of_a_terabyte_is_refused_unread(good: Path, reader: Reader, path: Path) -> None:
    os.truncate(path, 1 << 40)
    with pytest.raises(reader.error, match=rf"{path.name}.* has 1099511627776 bytes"):
        reader.read(good)


def test_a_file_of_the_kernel_has_no_size_and_an_end() -> None:
    assert "cpu" in read_text(Path("/proc/cpuinfo"))


@every_text
def test_a_byte_order_mark_changes_nothing(good: Path, reader: Reader, path: Path) -> None:
    expected = reader.read(good)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    assert reader.read(good) == expected


@every_text
@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda text: text.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        (lambda text: text.encode("utf-32"), "is text in UTF-32; save it as UTF-8"),
        (lambda text: text.encode("utf-16-le"), r"or UTF-16: line \d holds a zero byte"),
        (lambda text: b"# \xe9\n" + text.encode(), "line 1 holds the byte 0xe9, é in Windows-1252; save it as UTF-8"),
        (lambda text: text.encode() + b"\n\xff", r"line \d+ holds the byte 0xff, ÿ in Windows-1252"),
        (lambda text: text.encode() + b"\0", "holds a zero byte"),
    ],
)
def test_another_encoding_is_named(
    good: Path, reader: Reader, path: Path, encode: Callable[[str], bytes], message: str
) -> None:
    path.write_bytes(encode(path.read_text(encoding="utf-8").replace("é", "e")))
    with pytest.raises(reader.error, match=message) as caught:
        reader.read(good)
    assert str(path) in str(caught.value)


def test_a_report_of_a_profile_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "marked.json").write_bytes(codecs.BOM_UTF8 + b'{"format": "other"}')
    with pytest.raises(EdgeError, match="format must be"):  # and so it was read
        ProfileReport.read(tmp_path / "marked.json")


def test_a_cell_of_an_earlier_comparison_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(CELL)
    kept = KeptCells(tmp_path).load("a")
    assert kept is not None
    assert kept.routes == [[50, 50]]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seconds": [0.1]', '"seconds": [0.1, 0.2]'),
        ('"seconds": [0.1]', '"seconds": ["0.1"]'),
        ('"seconds": [0.1]', '"seconds": 3'),
        ("[[1.0], [2]]", "[[1.0]]"),
        ("[[1.0], [2]]", '[[1.0], ["a"]]'),
        ("[[1.0], [2]]", "[1.0, 2]"),
        ('"P3"', '"P4"'),
        ("[[50, 50]]", "[[50]]"),
        ("[[50, 50]]", "[[50, null]]"),
        ('"confusion": [[100]]', '"confusion": {}'),
        ('"confusion": [[100]]', '"confused": [[100]]'),
        ('"stored_bytes": 1', '"stored_bytes": true'),
        ('{"accuracy"', '[{"accuracy"'),
    ],
)
def test_any_other_cell_is_computed_again(tmp_path: Path, old: str, new: str) -> None:
    assert old in CELL
    (tmp_path / "a.json").write_text(CELL.replace(old, new))
    assert KeptCells(tmp_path).load("a") is None


def test_a_cell_that_may_not_be_read_is_told(open_folder: Path) -> None:
    (open_folder / "a.json").write_text(CELL)
    (open_folder / "a.json").chmod(0)
    kept = KeptCells(open_folder)
    with bound_by_modes(), pytest.raises(ComparisonError, match=r"a\.json may not be read"):
        kept.load("a")
    assert kept.load("b") is None


def test_the_error_survives_being_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(FileError("a.txt", "is a folder, not a plain file; name a file")))
    assert str(sent) == "a.txt is a folder, not a plain file; name a file"
    assert sent.reason.startswith("is a folder")
