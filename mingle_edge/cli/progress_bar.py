"""Progress of long work on the terminal: one bar per stage on standard error, one line per stage where there is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click

from mingle_edge.cli.terminal import one_line
from mingle_edge.core.progress import WARNING

WIDTH = 24  # characters
REDRAW = 0.1  # seconds


class ProgressBar:
    """Shows the stages that a `mingle_edge.core.progress.Progress` reports."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._stage = ""
        self._drawn = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        click.echo(self._end_of_bar(), nl=False, err=True)

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Redraw the stage's bar; a finished or a new stage is always drawn."""
        detail = one_line(detail)
        if stage == WARNING:
            click.echo(f"{self._end_of_bar()}warning: {detail}", err=True)
            return
        if not self._terminal:
            if done >= total and total:
                click.echo(f"{stage}: {total}/{total} {detail}".rstrip(), err=True)
            return
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._drawn < REDRAW:
            return
        if stage != self._stage:
            click.echo(self._end_of_bar(), nl=False, err=True)
        self._stage, self._drawn = stage, now
        filled = WIDTH * done // max(total, 1)
        line = f"{stage:<10} [{'#' * filled}{'.' * (WIDTH - filled)}] {done}/{total} {detail}"
        click.echo(f"\r{line[:78]:<78}", nl=False, err=True)

    def _end_of_bar(self) -> str:
        """Return the line feed that a bar lacks, where one was drawn."""
        drawn, self._stage = self._terminal and bool(self._stage), ""
        return "\n" if drawn else ""
