"""Files that shrink under a mapping: an error that names them, in processes of their own, as a signal could end them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import Weights, images, write_image_bundle, write_layer_bundle

from mingle_edge_runtime import ExpertError
from mingle_edge_runtime.bundle.mapped_file import MappedFile

CUT = """
import os, sys
import numpy as np
from mingle_edge_runtime import EdgeModel
bundle, file, low_memory, first, then = sys.argv[1:]
images = np.load(bundle + "/../images.npy")
with EdgeModel.open(bundle, threads=1, low_memory=bool(low_memory)) as model:
    expected = model.embed(images, task=first or None)
    size = os.path.getsize(f"{bundle}/{file}")
    content = open(f"{bundle}/{file}", "rb").read()
    os.truncate(f"{bundle}/{file}", 5)
    try:
        model.embed(images, task=then or None)
    except Exception as error:
        print(type(error).__name__, error)
    with open(f"{bundle}/{file}", "r+b") as whole:
        whole.write(content)
    try:  # what was written back may be anything
        model.embed(images, task=then or None)
    except Exception as error:
        print(type(error).__name__, error)
with EdgeModel.open(bundle, threads=1, low_memory=bool(low_memory)) as model:
    np.testing.assert_array_equal(model.embed(images, task=first or None), expected)
"""


@pytest.mark.parametrize(
    ("scope", "file", "low_memory", "first", "then", "error"),
    [
        ("image", "experts/red.onnx_adapter", "", "red", "red", "ExpertError"),  # resident
        ("image", "experts/red.onnx_adapter", "", "", "", "ExpertError"),  # found by its route
        ("image", "experts/blue.onnx_adapter", "", "red", "blue", "ExpertError"),  # not opened before
        ("image", "backbone.bin", "", "red", "red", "ExpertError"),
        ("image", "backbone.bin", "yes", "", "", "ExpertError"),
        ("layer", "experts.bin", "", "red", "red", "BundleError"),
        ("layer", "experts.bin", "", "", "", "BundleError"),
        ("layer", "backbone.bin", "yes", "red", "red", "BundleError"),
    ],
)
def test_a_file_cut_between_runs_is_an_error(
    tmp_path: Path, scope: str, file: str, low_memory: str, first: str, then: str, error: str
) -> None:
    bundle = {"image": write_image_bundle, "layer": write_layer_bundle}[scope](tmp_path / "bundle", Weights())
    np.save(tmp_path / "images.npy", images(0))
    size = (bundle / file).stat().st_size
    command = [sys.executable, "-c", CUT, str(bundle), file, low_memory, first, then]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, (run.returncode, run.stderr)
    cut, overwritten = run.stdout.splitlines()
    assert cut.startswith(f"{error} ")
    assert f"{bundle}/{file}" in cut
    assert f"from {size} to 5 bytes" in cut or f"has 5 bytes instead of {size}" in cut
    assert "copy or export it again" in cut
    assert overwritten.startswith(f"{error} ")
    assert f"{bundle}/{file}" in overwritten
    assert "was overwritten while" in overwritten or "was replaced while the bundle was open" in overwritten
    assert "open" in overwritten


def opened(path: Path) -> MappedFile:
    """The file, open."""
    return MappedFile(os.open(path, os.O_RDONLY), path, "it", ExpertError)


def test_reading_through_asks_for_every_byte_once_and_in_order(tmp_path, monkeypatch) -> None:
    content = np.random.default_rng(0).bytes(5 << 19)  # two and a half pieces
    path = tmp_path / "file"
    path.write_bytes(content)
    file = opened(path)
    parts: list[tuple[int, bytes]] = []
    original = os.pread

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        parts.append((offset, content := original(descriptor, count, offset)))
        return content

    monkeypatch.setattr(os, "pread", pread)
    file.read_through(4096, len(content))
    assert b"".join(part for _, part in parts) == content[4096:]
    assert [offset for offset, _ in parts] == [4096, 4096 + (1 << 20), 4096 + (2 << 20)]


def test_reading_through_what_is_gone_is_an_error(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    file = opened(path)
    os.truncate(path, 1 << 18)
    with pytest.raises(ExpertError, match="it was cut from 3145728 to 262144 bytes while it was in use"):
        file.read_through(0, 3 << 20)

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(ExpertError, match=r"it cannot be read: copy or export it again \(Input/output error\)"):
        file.read_through(0, 1)
