"""The fuzz's mutators change what they are given, the same way every time, and keep what a format's reader checks first."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
import zlib
from contextlib import suppress
from random import Random

import mutations
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fuzz_corpus import write_pictures, write_task_file
from safetensors.numpy import save
from tiny_bundle import Weights, write_image_bundle

CASES = 200
MUTATORS = {
    "dense.onnx": mutations.protobuf,
    "experts/red.onnx_adapter": mutations.adapter,
    "backbone.bin": mutations.float_values,
    "heads/red.npy": mutations.npy,
    "golden.npz": mutations.zip_members(lambda name: mutations.npy),
    "bundle.json": mutations.json_text,
    "rgb.png": mutations.png,
    "photo.jpg": mutations.jpeg,
    "plain.tif": mutations.tiff,
    "TASKS.toml": mutations.toml_lines,
    "a.safetensors": mutations.safetensors,
}


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    """An untouched file of every format."""
    folder = tmp_path_factory.mktemp("mutations")
    roots = [write_image_bundle(folder / "bundle", Weights()), folder / "pictures", folder / "tasks"]
    write_pictures(roots[1])
    write_task_file(roots[2])
    found = {name: root / name for root in roots for name in MUTATORS if (root / name).is_file()}
    return {name: path.read_bytes() for name, path in found.items()} | {"a.safetensors": save({"a": np.ones((3, 4))})}


def mutants(contents: dict[str, bytes], name: str) -> list[bytes]:
    """What a mutator makes of a file with different randomness."""
    return [MUTATORS[name](contents[name], Random(f"{name} {case}")) for case in range(CASES)]


def accepted(read, changed: list[bytes]) -> int:
    """How many files a reader that checks nothing but the format accepts."""
    count = 0
    for content in changed:
        with suppress(Exception):
            read(content)
            count += 1
    return count


@pytest.mark.parametrize("name", MUTATORS)
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
        ("golden.npz", lambda content: zipfile.ZipFile(io.BytesIO(content)), 0.95),
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


def test_fields_of_adapters_are_found(contents, tmp_path) -> None:
    """None of them outside the file, and the shapes those that ONNX Runtime reads."""
    data = contents["experts/red.onnx_adapter"]
    (root,) = np.frombuffer(data[:4], "<u4")
    places = list(mutations._table(data, int(root), mutations._ADAPTER))
    dims = [int.from_bytes(data[at : at + 8], "little") for at, kind in places if kind == "<q"]
    (tmp_path / "a").write_bytes(data)
    read = ort.AdapterFormat.read_adapter(str(tmp_path / "a")).get_parameters()
    assert sorted(dims) == sorted(side for value in read.values() for side in value.shape())
    assert all(0 <= at < len(data) for at, _ in places)
