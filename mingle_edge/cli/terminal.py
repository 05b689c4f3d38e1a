"""Standard output and error while a command runs: whatever a name holds is shown, not obeyed, and breaks nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

import click

CLOSED = 141
"""Exit code where whoever read standard output has gone, as shells report the signal of it."""

# Control characters but for tab and line feed, line separators of Unicode, and what reverses the direction of text.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@contextmanager
def terminal() -> Iterator[None]:
    """Print through `Terminal` within the block, whoever prints."""
    with (
        redirect_stdout(_guarded(sys.stdout, Terminal)),
        redirect_stderr(_guarded(sys.stderr, LossyTerminal)),
    ):
        yield


class Terminal:
    """A text stream on which control characters, and what its encoding lacks, are written as backslash escapes.

    A carriage return at the beginning of what is written is one: progress bars draw over themselves.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write all of `text`, escaped.

        Nothing is no write: click tries a stream with it and ignores what fails, so that the loss would be noticed there alone.
        """
        if text == "":  # of bytes, click expects a complaint
            return 0
        start = "\r" if text.startswith("\r") else ""
        shown = start + _COMMANDS.sub(_escape, text.removeprefix("\r"))
        encoding = self._stream.encoding or "utf-8"
        with self._lost():
            self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        with self._lost():
            self._stream.flush()

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would pass by the escapes
            raise AttributeError(name)
        return getattr(self._stream, name)

    @contextmanager
    def _lost(self) -> Iterator[None]:
        """End quietly where nobody reads any more; where the rest cannot be written, say so."""
        try:
            yield
        except OSError as error:
            self._let_go()
            if isinstance(error, BrokenPipeError):
                raise click.exceptions.Exit(CLOSED) from error
            raise OSError(error.errno, error.strerror, "standard output") from error

    def _let_go(self) -> None:
        """Lead what is still to be written to nowhere: the interpreter would try again as it ends, and complain."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class LossyTerminal(Terminal):
    """Standard error: work goes on where nobody reads what is said about it."""

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._let_go()


def one_line(text: object) -> str:
    """Write a name that is printed among others: line feeds and tabs become escapes, too."""
    return str(text).replace("\n", "\\n").replace("\t", "\\t")


def _guarded(stream: TextIO | None, kind: type[Terminal]) -> TextIO | None:
    """Guard a stream; there is none where the process was started without one."""
    return None if stream is None else cast(TextIO, kind(stream))


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode()
