"""Files of figures beside what a command prints: none takes the place of another file, and nothing is lost with one."""

from __future__ import annotations

import json
import os
import sys

import pytest
from click.testing import CliRunner

from mingle_edge.cli import main


@pytest.fixture
def call(image_model, task_file, image_bundle):
    """Run a command line with the names of the fixtures put in."""
    names = {"merged": image_model.path, "tasks": task_file, "bundle": image_bundle}
    return lambda line: CliRunner().invoke(main, line.format(**names).split())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("line", "figure"),
    [
        ("check {tasks}", "3 tasks, merge would take them"),
        ("evaluate {merged} {tasks}", "ACC"),
        ("profile {bundle} --runs 1", "named"),
    ],
)
def test_figures_are_shown_where_the_disk_is_full(call, line: str, figure: str) -> None:
    result = call(f"{line} --json /dev/full")
    assert result.exit_code == 7
    assert figure in result.stdout
    assert "error: /dev/full: cannot be written (No space left on device)" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "check {tasks} --json {tasks}",
        "check {tasks} --html {tasks}",
        "check {tasks} --json same --html same",
        "evaluate {merged} {tasks} --json {tasks}",
        "profile {bundle} --json same --html same",
        "head {tasks} --task task0 -o {tasks}",
    ],
)
def test_a_file_is_one_thing(call, task_file, line: str) -> None:
    before = task_file.read_bytes()
    result = call(line)
    assert result.exit_code == 3
    assert "cannot be written: the same command reads or writes it for something else; name another" in result.stderr
    assert task_file.read_bytes() == before


def test_figures_are_written_where_nobody_reads_what_is_printed(image_model, task_file, tmp_path, monkeypatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    figures = tmp_path / "figures.json"
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(image_model.path), str(task_file), "--json", str(figures)])
    assert ended.value.code == 141
    assert json.loads(figures.read_text())["tasks"] == ["task0", "task1", "task2"]


@pytest.mark.parametrize(("folder", "kind"), [("{merged}", "a merged model"), ("{bundle}", "a bundle")])
def test_a_comparison_goes_into_no_folder_of_weights(call, folder: str, kind: str) -> None:
    result = call(f"compare {{tasks}} -o {folder}")
    assert (result.exit_code, f"is {kind}, and the results need a folder of their own" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--severity 3", "--severity is that of --corruptions: add --corruptions, or leave it out"),
        ("--no-ray --address a:1", "--address names a Ray cluster and --no-ray uses none: leave out one of them"),
    ],
)
def test_an_option_of_compare_that_would_do_nothing_is_refused(call, options: str, message: str) -> None:
    result = call(f"compare {{tasks}} -o comparison {options}")
    assert (result.exit_code, message in result.stderr) == (2, True)
