"""Fixtures that tests of hostile input share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click
import pytest
from click.testing import CliRunner, Result
from special_files import folder_for_all

from mingle_edge.cli import LazyGroup, main

LONGEST = 30  # seconds that no test comes near to


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Fail a test that waits for something that never comes, as the writer of a pipe or a lock."""

    def fail(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"it waits longer than {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter."""
    with folder_for_all() as folder:
        yield folder


@pytest.fixture
def copied_tasks(task_file: Path, tmp_path: Path) -> Path:
    """The tiny task file of the image scope with all that it names, to be changed."""
    shutil.copytree(task_file.parent, tmp_path / "tasks")
    return tmp_path / "tasks" / task_file.name


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Result]:
    """What runs a command that does this."""

    def run(action: Callable[[], object]) -> Result:
        monkeypatch.setattr(LazyGroup, "get_command", lambda *given: click.Command("any", callback=action))
        return CliRunner().invoke(main, ["any"])

    return run
