"""Progress of long work on standard error: one bar a stage on a terminal, and lines with a count where there is none."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from types import TracebackType

import click

from mingle_edge.cli.terminal import one_line
from mingle_edge.core.progress import WARNING

_WIDTH = 78  # characters of a line, where the terminal is not narrower
_BAR = 24  # characters
_REDRAW = 0.1  # seconds
_LINE, _SLOWER = 10.0, 0.05  # seconds between lines without a terminal; a share of the time elapsed where that is more
_TOLD = 1.0  # seconds that a stage takes at least where its time is told


@dataclass
class _Stage:
    """A stage as it was last reported."""

    name: str
    began: float
    first: int
    """steps that were done when it began, as by an earlier run"""
    done: int
    total: int
    detail: str

    @property
    def ended(self) -> bool:
        return self.done >= self.total

    def count(self, of: str) -> str:
        return f"{self.done}{of}{self.total}"

    def time(self, now: float) -> str:
        """Return how long it took; while it runs how long so far, and how long the rest will take if it goes on like this."""
        elapsed, steps = now - self.began, self.done - self.first
        if elapsed < _TOLD:
            return ""
        if self.ended or steps <= 0:
            return _clock(elapsed)
        return f"{_clock(elapsed)}, {_clock(elapsed / steps * (self.total - self.done))} left"


class ProgressBar:
    """Shows the stages that a `mingle_edge.core.progress.Progress` reports; a part of a stage is shown in its line."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._stages: list[_Stage] = []  # from the outermost to the part reported last
        self._shown = 0.0
        self._line_open = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_line()

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Take in the state of a stage, and show it where it is new, has ended, or was not shown for a while."""
        if stage == WARNING:
            self._warn(one_line(detail))
            return
        if [(shown.name, shown.done, shown.total) for shown in self._stages] == [(stage, done, total)] and done >= total:
            return  # said again that it has ended
        now = time.monotonic()
        began = self._take_in(stage, done, total, one_line(detail), now)
        outer = self._stages[0]
        if self._terminal:
            if began or outer.ended or now - self._shown >= _REDRAW:
                self._draw(now)
        elif (outer.ended and outer is self._stages[-1]) or now - self._shown >= max(_LINE, _SLOWER * (now - outer.began)):
            self._shown = now
            click.echo(self._line(now), err=True)

    def _take_in(self, name: str, done: int, total: int, detail: str, now: float) -> bool:
        """Update the stages, and return whether a new outermost one has begun."""
        known = next((number for number, stage in enumerate(self._stages) if stage.name == name), None)
        if known is not None and done >= self._stages[known].done:
            del self._stages[known + 1 :]
            stage = self._stages[known]
            stage.done, stage.total, stage.detail = done, total, detail
            return False
        if known is not None:  # it begins again
            del self._stages[known:]
        while self._stages and self._stages[-1].ended:
            self._stages.pop()
        self._stages.append(_Stage(name, now, done, done, total, detail))
        if len(self._stages) > 1:
            return False
        self._shown = now
        if known is None:
            self._end_line()
        return True

    def _draw(self, now: float) -> None:
        """Draw the outermost stage over itself."""
        outer, parts = self._stages[0], self._stages[1:]
        filled = _BAR * outer.done // max(outer.total, 1)
        details = [outer.detail, *(f"{part.name} {part.count('/')}" for part in parts)]
        if outer.ended:
            filled, details = _BAR, [outer.detail]
        told = "  ".join(filter(None, (outer.count("/"), outer.time(now), " ".join(filter(None, details)))))
        line = f"{outer.name:<10} [{'#' * filled}{'.' * (_BAR - filled)}] {told}"
        width = self._width()
        click.echo(f"\r{line[:width]:<{width}}", nl=False, err=True)
        self._shown, self._line_open = now, True

    def _line(self, now: float) -> str:
        """Return the state in words: `merge: 3 of 8, gtsrb, experts 40 of 75 (1:20, 2:10 left)`."""
        outer, parts = self._stages[0], self._stages[1:]
        details = [outer.detail, *(f"{part.name} {part.count(' of ')}" for part in parts if not outer.ended)]
        told = ", ".join(filter(None, (outer.count(" of "), *details)))
        elapsed = outer.time(now)
        return f"{outer.name}: {told}{f' ({elapsed})' if elapsed else ''}"

    def _warn(self, text: str) -> None:
        """Print a warning in place of the bar, which goes on in the next line."""
        line = f"warning: {text}"
        click.echo(f"\r{line:<{self._width()}}" if self._line_open else line, err=True)
        self._line_open = False

    def _end_line(self) -> None:
        if self._line_open:
            click.echo("", err=True)
            self._line_open = False

    @staticmethod
    def _width() -> int:
        return min(_WIDTH, shutil.get_terminal_size().columns - 1)


def _clock(seconds: float) -> str:
    """Write a time as `0:07` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
