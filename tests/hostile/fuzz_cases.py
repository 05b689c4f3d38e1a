"""What a fuzz target is: files that a case changes, something that is asked of them, and what may be answered."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import ClassVar

from binary_mutations import mutated


class WrongAnswerError(AssertionError):
    """An answer was given, and it is not right."""


class Target:
    """One kind of input, and one use of it."""

    name: ClassVar[str]
    share: ClassVar[float]
    """of all cases of a campaign, relative to other targets"""
    folder: ClassVar[str]
    """of the corpus"""
    refusals: ClassVar[tuple[type[Exception], ...]]
    """the error trees that may refuse an input"""
    quiet: ClassVar[bool] = True
    """whether nothing may be written to the terminal"""

    def __init__(self, corpus: Path, work: Path) -> None:
        """Copy inputs of `corpus` to `work`, an empty folder of its own, and beside them what must not be opened."""
        self.root = work / self.folder
        shutil.copytree(corpus / self.folder, self.root)
        files = [path for path in self.root.rglob("*") if path.is_file()]
        self.content = {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}
        self.names = sorted(self.content)
        self.changed = ""
        """the file that the present case is about"""
        self._touched: set[str] = set()
        for trap in (self.root, work, work.parent):
            os.mkfifo(trap / "secret")  # whoever opens it waits forever

    def choose(self, random: Random) -> str:
        """Return the file that a case changes."""
        return random.choice(self.names)

    def change(self, random: Random) -> str:
        """Change the inputs. Returns what was done, in words."""
        self.changed = name = self.choose(random)
        way = random.random()
        if way < 0.03:
            return f"{name} {self._become(name, random)}"
        if way < 0.06:
            other = random.choice(self.names)
            self.write(name, self.content[other])
            return f"{name} replaced by {other}"
        self.write(name, mutated(name, self.content[name], random))
        return name

    def answer(self) -> str:
        """Use the inputs and check what comes of it; one word for it. Raises a refusal, or `WrongAnswerError`."""
        raise NotImplementedError

    def write(self, name: str, content: bytes) -> None:
        """Give a file other content, as a new file under the old name."""
        self._touched.add(name)
        new = self.root / ".new"
        new.write_bytes(content)
        new.replace(self.root / name)

    def _become(self, name: str, random: Random) -> str:
        """Put something else than a plain file in place of one. Returns what."""
        self._touched.add(name)
        path, outside = self.root / name, self.root.parent / "outside"
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
        for name in list(self._touched):
            path = self.root / name
            with contextlib.suppress(FileNotFoundError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            self.write(name, self.content[name])
        self._touched.clear()


def first_refusal(refusals: tuple[type[Exception], ...], uses: Iterator[Callable[[], None]]) -> None:
    """Make every use, whatever becomes of the others, and raise the first refusal in the end."""
    refused: list[Exception] = []
    for use in uses:
        try:
            use()
        except refusals as error:
            refused.append(error)
    if refused:
        raise refused[0]
