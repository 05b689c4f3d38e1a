"""Exports that must not happen, and exports that are cut short: a clear message, and nothing half-written."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import resource
import sys

import pytest
from click.testing import CliRunner
from tiny_merged import ARCHITECTURE, write_merged

import mingle_edge_export.bundle.output_folder
from mingle_edge.cli import main
from mingle_edge_export import OptionError, OutputError, export_bundle
from mingle_edge_export.errors import DiskSpaceError
from mingle_edge_runtime.bundle.bundle import Bundle


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A merged model whose adapters are larger than its backbone."""
    architecture = dataclasses.replace(ARCHITECTURE, width=96, mlp_width=160, layers=1)
    return write_merged(tmp_path_factory.mktemp("model") / "merged", architecture=architecture, rank=96, router_blocks=1)


def test_a_model_without_tasks(tmp_path):
    merged = write_merged(tmp_path / "merged", tasks=0)
    with pytest.raises(OptionError, match="there are no tasks in it yet; merge one first"):
        export_bundle(merged.path, tmp_path / "bundle")


def test_a_missing_onnxruntime_names_what_to_install(merged, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = CliRunner().invoke(main, ["export", str(merged.path), "-o", str(tmp_path / "bundle")])
    assert result.exit_code == 7
    assert re.fullmatch(r"error: ONNX Runtime is not installed: .*onnxruntime.*\n", result.output)
    assert not list(tmp_path.iterdir())


def test_an_unknown_task_is_one_line(merged, tmp_path):
    arguments = ["export", str(merged.path), "-o", str(tmp_path / "bundle"), "--tasks", "task0,tusk"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    assert result.output.splitlines() == [f"error: {merged.path}: there is no task 'tusk'; tasks are: task0, task1, task2"]
    assert not list(tmp_path.iterdir())


def test_an_output_folder_in_use_is_left_alone(merged, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"bundle: the output folder must be new or empty, and holds mine\.txt"):
        export_bundle(merged.path, tmp_path / "bundle")
    with pytest.raises(OutputError, match=r"mine.txt: the output must be a folder, and this is a file"):
        export_bundle(merged.path, tmp_path / "bundle/mine.txt")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "mine.txt"]


def test_an_empty_folder_and_missing_parents_are_fine(merged, tmp_path):
    (tmp_path / "bundle").mkdir()
    export_bundle(merged.path, tmp_path / "bundle")
    export_bundle(merged.path, tmp_path / "deep/down/bundle")
    assert Bundle.open(tmp_path / "bundle").index == Bundle.open(tmp_path / "deep/down/bundle").index


def test_below_a_file(merged, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt: .*; name another"):
        export_bundle(merged.path, tmp_path / "notes.txt")


def test_a_read_only_place(merged):
    with pytest.raises(
        OutputError, match=r"^/sys/bundle: cannot be written \(.+\); check who may write there, or name another place"
    ):
        export_bundle(merged.path, "/sys/bundle")


def test_too_little_space_is_seen_before_any_work(merged, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000_000})()
    monkeypatch.setattr(mingle_edge_export.bundle.output_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskSpaceError, match=r"the bundle needs 3\d MB and 10 MB are free; free some space"):
        export_bundle(merged.path, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [100_000, 500_000], ids=["backbone", "adapter"])
def test_a_disk_that_fills_up_meanwhile(merged, tmp_path, limit):
    """A limit on file sizes makes writes fail halfway, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match=r"(free some|check the) space"):
            export_bundle(merged.path, tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_no_space_left_names_the_folder(merged, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mingle_edge_export.bundle.output_folder.os, "fsync", full)
    with pytest.raises(OutputError, match=r"bundle: cannot be written \(No space left on device\); free some space and run"):
        export_bundle(merged.path, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_control_c_leaves_nothing(merged, tmp_path):
    def interrupt(stage, done, total, detail=""):
        if stage == "parity":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(merged.path, tmp_path / "bundle", progress=interrupt)
    assert not list(tmp_path.iterdir())
