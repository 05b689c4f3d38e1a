"""What to type after a command has done its work, with the user's own names in it; on standard error, out of scripts' way."""

from __future__ import annotations

import os
import shlex
from itertools import count
from pathlib import Path

import click

from mingle_edge.cli.terminal import one_line


def suggest(*words: str | Path, note: str = "") -> None:
    """Print `next: mingle-edge ...` with these words, quoted for a shell. note: what follows it, such as `on the device`."""
    line = shlex.join(["mingle-edge", *map(str, words)])
    click.echo(one_line(f"next: {line}{f'   ({note})' if note else ''}"), err=True)


def unused(name: str) -> Path:
    """Return a path of this name in the current folder, with the first number that makes it new: `bundle`, `bundle-2`."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return Path(next(name for name in names if not os.path.lexists(name)))
