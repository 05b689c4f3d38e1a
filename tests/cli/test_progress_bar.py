"""Progress on a terminal and in a log, by a clock of the test's own."""

from __future__ import annotations

import io
import sys

import pytest

from mingle_edge.cli import progress_bar
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.core.progress import WARNING


class Clock:
    """Stands for `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Stream(io.StringIO):
    """Standard error, a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def lines(self) -> list[str]:
        """What a terminal shows in the end: of each line what was drawn last."""
        return [line.split("\r")[-1].rstrip() for line in self.getvalue().removesuffix("\n").split("\n")]


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_bar, "time", clock)
    return clock


def shown(monkeypatch, *, terminal: bool) -> Stream:
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def merge(clock: Clock, progress: ProgressBar, seconds: float) -> None:
    """Three tasks, the first there already, each of two stages of ten steps; the second task is strange."""
    progress("images", 18, 18)
    for number, task in enumerate(("b", "c"), start=1):
        progress("merge", number, 3, task)
        for stage in ("experts", "router"):
            for step in range(10):
                clock.now += seconds / 20
                progress(stage, step + 1, 10)
        if task == "b":
            progress(WARNING, 1, 1, "task 'b' is strange")
        progress("merge", number + 1, 3)
    progress("merge", 3, 3)


def test_a_terminal_shows_one_bar_a_stage(monkeypatch, clock) -> None:
    stream = shown(monkeypatch, terminal=True)
    with ProgressBar() as progress:
        merge(clock, progress, seconds=60)
    assert stream.lines() == [
        f"images     [{'#' * 24}] 18/18",
        "warning: task 'b' is strange",
        f"merge      [{'#' * 24}] 3/3  2:00",
    ]
    assert all(len(part) <= 78 for part in stream.getvalue().replace("\r", "\n").splitlines())
    assert f"merge      [{'#' * 8}{'.' * 16}] 1/3  0:57  b router 9/10" in stream.getvalue()
    assert f"merge      [{'#' * 16}{'.' * 8}] 2/3  1:03, 1:03 left  c experts 1/10" in stream.getvalue()


def test_a_log_shows_life_and_not_every_step(monkeypatch, clock) -> None:
    stream = shown(monkeypatch, terminal=False)
    with ProgressBar() as progress:
        merge(clock, progress, seconds=20)
    assert stream.getvalue().splitlines() == [
        "images: 18 of 18",
        "merge: 1 of 3, b, experts 10 of 10 (0:10)",
        "merge: 1 of 3, b, router 10 of 10 (0:20)",
        "warning: task 'b' is strange",
        "merge: 2 of 3, c, experts 10 of 10 (0:30, 0:30 left)",
        "merge: 2 of 3, c, router 10 of 10 (0:40, 0:40 left)",
        "merge: 3 of 3 (0:40)",
    ]


def test_lines_of_long_work_lie_further_apart(monkeypatch, clock) -> None:
    stream = shown(monkeypatch, terminal=False)
    with ProgressBar() as progress:
        for step in range(10_001):
            progress("adapt", step, 10_000)
            clock.now += 1
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("adapt: 10 of 10000 (0:10, 2:46:30 left)")
    assert lines[-1] == "adapt: 10000 of 10000 (2:46:40)"
    assert 50 < len(lines) < 150


def test_a_stage_that_begins_again_stays_in_its_line(monkeypatch, clock) -> None:
    stream = shown(monkeypatch, terminal=True)
    with ProgressBar() as progress:
        for total in (3, 5):
            for done in range(1, total + 1):
                clock.now += 1
                progress("profile", done, total)
    assert stream.lines() == [f"profile    [{'#' * 24}] 5/5  0:04"]


def test_what_is_cut_short_ends_its_line(monkeypatch, clock) -> None:
    stream = shown(monkeypatch, terminal=True)
    with ProgressBar() as progress:
        progress("merge", 0, 2, "a")
    assert stream.getvalue().endswith("0/2  a".ljust(78 - len("merge      [] ") - 24) + "\n")
