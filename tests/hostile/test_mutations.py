"""The fuzz's mutators change what they are given, the same way every time, and keep what a format's reader checks first."""

from __future__ import annotations

import io
import json
import struct
import tomllib
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from binary_mutations import MUTATORS
from fuzz_corpus import write_pictures, write_task_file
from safetensors.numpy import save
from tiny_bundle import INPUTS, RANK

CASES = 200
BUNDLE = ("dense.onnx", "experts/red.onnx_adapter", "backbone.bin", "heads/red.npy", "golden.npz", "bundle.json")
PICTURES = ("rgb.png", "photo.jpg", "plain.tif")


@pytest.fixture(scope="module")
def contents(image_bundle, tmp_path_factory) -> dict[str, bytes]:
    """An untouched file of every format."""
    folder = tmp_path_factory.mktemp("mutations")
    write_pictures(folder / "pictures")
    write_task_file(folder / "tasks")
    paths = [(image_bundle, BUNDLE), (folder / "pictures", PICTURES), (folder / "tasks", ["TASKS.toml"])]
    files = {name: (root / name).read_bytes() for root, names in paths for name in names}
    return files | {"a.safetensors": save({"a": np.ones((3, 4))})}


def mutants(contents: dict[str, bytes], name: str) -> list[bytes]:
    """What the mutator of its suffix makes of a file with different randomness."""
    return [MUTATORS[Path(name).suffix](contents[name], Random(f"{name} {case}")) for case in range(CASES)]


def accepted(read, changed: list[bytes]) -> int:
    """How many files a reader that checks nothing but the format accepts."""
    count = 0
    for content in changed:
        with suppress(Exception):
            read(content)
            count += 1
    return count


@pytest.mark.parametrize("name", [*BUNDLE, *PICTURES, "TASKS.toml", "a.safetensors"])
def test_files_change_and_cases_repeat(contents, name: str) -> None:
    changed = mutants(contents, name)
    assert changed == mutants(contents, name)
    assert sum(content != contents[name] for content in changed) > 0.8 * CASES
    assert len(set(changed)) > 0.7 * CASES


@pytest.mark.parametrize(
    ("name", "read", "share"),
    [
        ("dense.onnx", onnx.load_model_from_string, 0.5),
        ("bundle.json", json.loads, 0.5),
        ("TASKS.toml", lambda content: tomllib.loads(content.decode()), 0.4),
        ("golden.npz", lambda content: zipfile.ZipFile(io.BytesIO(content)), 0.8),
        ("heads/red.npy", lambda content: np.load(io.BytesIO(content)), 0.1),
    ],
)
def test_many_files_are_still_of_their_format(contents, name: str, read, share: float) -> None:
    assert accepted(read, mutants(contents, name)) > share * CASES


def test_checksums_of_png_chunks_are_right(contents) -> None:
    for content in mutants(contents, "rgb.png"):
        at = 8
        while at < len(content):
            size = int.from_bytes(content[at : at + 4], "big")
            checksum = int.from_bytes(content[at + 8 + size : at + 12 + size], "big")
            assert checksum == zlib.crc32(content[at + 4 : at + 8 + size])
            at += 12 + size


def test_the_shape_of_a_tensor_in_an_adapter_changes_alone(contents) -> None:
    data = contents["experts/red.onnx_adapter"]
    start = data.index(struct.pack("<IQQ", 2, RANK, INPUTS)) + 4
    others = [
        content[:start] + content[start + 16 :] for content in mutants(contents, "experts/red.onnx_adapter") if content != data
    ]
    assert data[:start] + data[start + 16 :] in others
