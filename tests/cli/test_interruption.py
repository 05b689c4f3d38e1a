"""What each command of the workstation says when it is interrupted: what is true of its files then, and how to go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_clip import first_tasks

from mingle_edge.cli import main
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.merging.merged_model import MergedModel


@pytest.fixture
def interrupted(monkeypatch) -> Callable[..., str]:
    """Run a command that is interrupted when it reports this state, and return its last line."""

    def run(stage: str, done: int, *arguments: object) -> str:
        def interrupt(self: ProgressBar, reported: str, at: int, total: int, detail: str = "") -> None:
            if (reported, at) == (stage, done):
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(ProgressBar, "__call__", interrupt)
            result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 130, result.output
        last: str = result.stderr.splitlines()[-1]
        return last

    return run


def test_a_merge_keeps_its_finished_tasks(interrupted, task_file, tmp_path) -> None:
    merged, arguments = tmp_path / "merged", ("merge", task_file, "-o", tmp_path / "merged")
    assert interrupted("check", 0, *arguments) == "interrupted; no task was finished; the same command starts again"
    said = f"interrupted; 2 of 3 tasks are kept in {merged} (task0, task1); the same command continues"
    assert interrupted("merge", 2, *arguments) == said
    assert MergedModel.open(merged).task_names == ["task0", "task1"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert f"{merged}: added task2 to task0, task1" in result.stdout


@pytest.mark.parametrize(
    ("command", "stage", "said"),
    [
        ("check {tasks}", "check", "nothing was written; start again"),
        ("evaluate {merged} {tasks}", "evaluate", "nothing was written; start again"),
        ("export {merged} -o {new}", "parity", "no bundle was written; start again"),
        ("demo -o {new}", "render", "{new} holds a part of a demo; the same command begins anew"),
    ],
)
def test_others_say_that_they_start_again(
    interrupted, image_model, task_file, tmp_path, command: str, stage: str, said: str
) -> None:
    names = {"tasks": task_file, "merged": image_model.path, "new": tmp_path / "new"}
    assert interrupted(stage, 0, *command.format(**names).split()) == f"interrupted; {said.format(**names)}"
    assert (tmp_path / "new").exists() == ("holds" in said)


def test_a_comparison_keeps_its_cells(interrupted, task_file, tmp_path) -> None:
    output = tmp_path / "comparison"
    arguments = ("compare", first_tasks(task_file, 1), "-o", output, "--orders", 1, "--methods", "ties", "--no-ray")
    assert interrupted("cell", 0, *arguments) == "interrupted; no cell was finished; the same command starts again"
    said = interrupted("compare", 2, *arguments)
    kept = len(list(Path(output / "cells").glob("*.json")))
    assert kept == 2
    assert said == f"interrupted; 2 finished cells are kept in {output}; the same command continues"
