"""Text that was saved on Windows, is no text, or is no file at all, through every reader of text there is."""

from __future__ import annotations

import codecs
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from no_waiting import no_waiting
from other_user import bound_by_modes, open_folder
from tiny_clip import tiny_config, write_hugging_face, write_open_clip

from devices.device import KINDS as KINDS_OF_DEVICES
from devices.device import read_devices
from devices.errors import DeviceFileError
from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.comparison.kept_cells import KeptCells
from mingle_edge.core.errors import CheckpointError, ComparisonError, FileError, MingleError, TaskFileError
from mingle_edge.data.task_file import read_task_file
from mingle_edge.files.text_file import MOST_BYTES, read_json, read_text
from mingle_edge_runtime import EdgeError
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
Read = Callable[[Path], Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sound file for each reader."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "seeds").mkdir()
    (folder / "tasks.toml").write_text(TASKS)
    (folder / "classes.txt").write_text("calm sea\nécume\n", encoding="utf-8")
    (folder / "model.json").write_text(json.dumps(tiny_config()))
    write_open_clip(folder / "whole.safetensors")
    write_hugging_face(folder / "hub", kind="CLIPVisionModel")
    (folder / "hub/model.safetensors").rename(folder / "hub/model-00001-of-00001.safetensors")
    index = {"weight_map": {"embeddings.class_embedding": "model-00001-of-00001.safetensors"}}
    (folder / "hub/model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "hub/preprocessor_config.json").write_text("{}")
    (folder / "kinds").mkdir()
    (folder / "kinds/a.toml").write_bytes(next(KINDS_OF_DEVICES.glob("*.toml")).read_bytes())
    return folder


def shards(folder: Path) -> list[str]:
    return open_checkpoint("hub", base=folder, architecture=read_architecture("hub", folder)).names()


READERS: dict[str, tuple[str, type[Exception], Read]] = {
    "task file": ("tasks.toml", TaskFileError, lambda folder: read_task_file(folder / "tasks.toml")),
    "classes": ("classes.txt", TaskFileError, lambda folder: read_task_file(folder / "tasks.toml").tasks[0].classes),
    "open_clip": ("model.json", CheckpointError, lambda folder: read_architecture("model.json", folder)),
    "config.json": ("hub/config.json", CheckpointError, lambda folder: read_architecture("hub", folder)),
    "processor": ("hub/preprocessor_config.json", CheckpointError, lambda folder: read_architecture("hub", folder)),
    "index of shards": ("hub/model.safetensors.index.json", CheckpointError, shards),
    "kind of device": ("kinds/a.toml", DeviceFileError, lambda folder: read_devices(folder / "kinds")),
}
every_reader = pytest.mark.parametrize(("name", "error", "read"), READERS.values(), ids=READERS)


@pytest.fixture
def content(good: Path, name: str) -> Iterator[bytes]:
    """What the file holds, restored afterwards."""
    before = (good / name).read_bytes()
    yield before
    if not (good / name).is_file() or (good / name).is_symlink():
        (good / name).unlink()
    (good / name).write_bytes(before)


@every_reader
def test_a_byte_order_mark_changes_nothing(good: Path, name: str, error: type[Exception], read: Read, content: bytes) -> None:
    expected = read(good)
    (good / name).write_bytes(codecs.BOM_UTF8 + content.replace(b"\n", b"\r\n"))
    assert read(good) == expected


@every_reader
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
    good: Path, name: str, error: type[Exception], read: Read, content: bytes, encode: Callable[[str], bytes], message: str
) -> None:
    (good / name).write_bytes(encode(content.decode().replace("é", "e")))
    with pytest.raises(error, match=message) as raised:
        read(good)
    assert str(good / name) in str(raised.value)


KINDS = ("pipe", "device", "socket", "loop", "huge", "folder", "nothing")
ALLOWED = {  # a file may be left out, a folder or a name that is no file's may be a model's
    ("hub/preprocessor_config.json", "nothing"),
    ("kinds/a.toml", "nothing"),
    ("model.json", "folder"),
    ("model.json", "nothing"),
}
REFUSED = [(*reader, kind) for reader in READERS.values() for kind in KINDS if (reader[0], kind) not in ALLOWED]


@pytest.mark.parametrize(("name", "error", "read", "kind"), REFUSED, ids=[f"{name}-{kind}" for name, _, _, kind in REFUSED])
def test_what_is_no_plain_file_is_refused_unopened(
    good: Path, name: str, error: type[Exception], read: Read, content: bytes, kind: str
) -> None:
    path = good / name
    path.unlink()
    bound = socket.socket(socket.AF_UNIX)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        bound.bind(path.name)
        os.chdir(here)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "huge":
        path.touch()
        os.truncate(path, MOST_BYTES + 1)
    elif kind == "folder":
        path.mkdir()
    try:
        with no_waiting(), pytest.raises(error, match=path.name):
            read(good)
    finally:
        bound.close()
        if kind == "folder":
            path.rmdir()
            path.touch()
        elif kind == "nothing":
            path.touch()


def test_what_may_not_be_read_is_not_called_missing() -> None:
    with open_folder() as folder:
        (folder / "a.toml").write_text(TASKS)
        (folder / "inside").mkdir()
        (folder / "inside/b.json").write_text("{}")
        (folder / "a.toml").chmod(0)
        (folder / "inside").chmod(0)
        with bound_by_modes():
            for call in (lambda: read_task_file(folder / "a.toml"), lambda: read_json(folder / "inside/b.json")):
                with pytest.raises(MingleError, match=r"(a\.toml|b\.json) .*may not be read \(permission denied\)") as raised:
                    call()
                assert "exist" not in str(raised.value)


def test_a_file_of_the_kernel_has_no_size_and_an_end() -> None:
    assert "cpu" in read_text(Path("/proc/cpuinfo"))


def test_a_report_of_a_profile_is_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    with no_waiting(), pytest.raises(EdgeError, match=r"report\.json is no plain file"):
        ProfileReport.read(tmp_path / "report.json")
    (tmp_path / "marked.json").write_bytes(codecs.BOM_UTF8 + b'{"format": "other"}')
    with pytest.raises(EdgeError, match="format must be"):  # and so it was read
        ProfileReport.read(tmp_path / "marked.json")


class TestKeptCells:
    RESULT = """{"accuracy": {"P1": [[1.0], [2]], "P2": [[null], [2]], "P3": [[null], [2]]}, "seconds": [0.1],
        "stored_bytes": 1, "active_bytes": 1, "latency_ratio": null, "routes": [[50, 50]], "confusion": [[100]]}"""

    def test_a_whole_one_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(self.RESULT)
        found = KeptCells(tmp_path).load("a")
        assert found is not None
        assert found.routes == [[50, 50]]

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
    def test_any_other_is_computed_again(self, tmp_path: Path, old: str, new: str) -> None:
        assert old in self.RESULT
        (tmp_path / "a.json").write_text(self.RESULT.replace(old, new))
        assert KeptCells(tmp_path).load("a") is None

    def test_one_that_may_not_be_read_is_told(self) -> None:
        with open_folder() as folder:
            (folder / "a.json").write_text(self.RESULT)
            (folder / "a.json").chmod(0)
            kept = KeptCells(folder)
            with bound_by_modes(), pytest.raises(ComparisonError, match=r"a\.json may not be read"):
                kept.load("a")
            assert kept.load("b") is None


def test_the_error_survives_being_sent_to_another_process() -> None:
    import pickle

    sent = pickle.loads(pickle.dumps(FileError("a.txt", "is a folder, not a plain file; name a file")))
    assert str(sent) == "a.txt is a folder, not a plain file; name a file"
    assert sent.reason.startswith("is a folder")
