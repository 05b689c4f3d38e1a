"""What a fuzz target is: inputs that one case changes, something that is asked of them, and what may be answered."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import ClassVar


class WrongAnswerError(AssertionError):
    """An answer was given, and it is not right."""


class Inputs:
    """A folder of files that a case changes, and that is put right afterwards."""

    def __init__(self, source: Path, root: Path) -> None:
        """Copy `source` to `root`, in a folder where nothing else is but what must not be opened."""
        self.root = root
        shutil.copytree(source, root)
        self.content = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        self.names = sorted(self.content)
        self._changed: set[str] = set()
        for trap in (root.parent / "secret", root.parent.parent / "secret"):
            with contextlib.suppress(FileExistsError):
                os.mkfifo(trap)  # whoever opens it waits forever

    def write(self, name: str, content: bytes) -> None:
        """Give a file other content, as a new file under the old name."""
        self._changed.add(name)
        path = self.root / name
        new = self.root / ".new"
        new.write_bytes(content)
        os.replace(new, path)

    def become(self, name: str, random: Random) -> str:
        """Put something else than a plain file in place of one. Returns what."""
        self._changed.add(name)
        path = self.root / name
        outside = self.root.parent / "outside"
        outside.write_bytes(self.content[name])
        path.unlink()
        makers: dict[str, Callable[[], object]] = {
            "missing": lambda: None,
            "a folder": path.mkdir,
            "a pipe": lambda: os.mkfifo(path),
            "a link to nothing": lambda: path.symlink_to("nothing"),
            "a link to itself": lambda: path.symlink_to(path.name),
            "a link outside": lambda: path.symlink_to(outside),
            "a hard link": lambda: os.link(outside, path),
            "a device": lambda: path.symlink_to("/dev/zero"),
            "a pipe outside": lambda: path.symlink_to(self.root.parent / "secret"),
        }
        kind = random.choice(list(makers))
        makers[kind]()
        return kind

    def restore(self) -> None:
        """Put right what was changed, and remove what was added."""
        for name in self._changed:
            path = self.root / name
            with contextlib.suppress(FileNotFoundError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in list(self._changed):
            self.write(name, self.content[name])
        self._changed.clear()


class Target:
    """One kind of input, and one use of it."""

    name: ClassVar[str]
    share: ClassVar[float]
    """of all cases of a campaign, relative to other targets"""
    refusals: ClassVar[tuple[type[Exception], ...]]
    """the error trees that may refuse an input"""
    quiet: ClassVar[bool] = True
    """whether nothing may be written to the terminal"""

    def __init__(self, corpus: Path, work: Path) -> None:
        """Copy inputs of `corpus` to `work`, an empty folder of its own, and answer them untouched."""

    def change(self, random: Random) -> str:
        """Change the inputs. Returns what was done, in words."""
        raise NotImplementedError

    def answer(self) -> str:
        """Use the inputs and check what comes of it; one word for it. Raises a refusal, or `WrongAnswerError`."""
        raise NotImplementedError

    def restore(self) -> None:
        """Undo the change."""
        raise NotImplementedError


def first_refusal(refusals: tuple[type[Exception], ...], uses: Iterator[Callable[[], None]]) -> None:
    """Make every use, whatever becomes of the others, and raise the first refusal in the end."""
    found: Exception | None = None
    for use in uses:
        try:
            use()
        except refusals as error:
            found = found or error
    if found is not None:
        raise found
