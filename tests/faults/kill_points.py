"""A process that is killed at a numbered operation on the file system: a fork of this one, so nothing is imported twice."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from mingle_edge.merging import tensor_file

CHANGES = ("mkdir", "rmdir", "rename", "replace", "unlink", "remove", "chmod", "fsync", "ftruncate", "pwrite", "open")
"""Functions of `os` after which the disk may be another; `pathlib` and `shutil` call these too."""
LONGEST = 60  # seconds of a killed process, should it ever wait for something

Command = Callable[[], Any]


def operations(command: Command) -> list[str]:
    """Run a command and return the names of its operations on the file system, in order."""
    names: list[str] = []
    with _before_each(names.append):
        command()
    return names


def kill(command: Command, number: int, *, of: str | None = None, inside: int | None = None) -> None:
    """Run a command in a process that is killed before its operation of this number, or when it is done with all of them.

    of: the name of the operations that count, where not all do.
    inside: let the kernel kill it instead, from that operation on, where a file would grow beyond so many bytes.
    """
    reached = -1

    def count(name: str) -> None:
        nonlocal reached
        if of not in (None, name):
            return
        reached += 1
        if reached == number and inside is None:
            os.kill(os.getpid(), signal.SIGKILL)
        elif reached == number:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
            resource.setrlimit(resource.RLIMIT_FSIZE, (inside, resource.RLIM_INFINITY))

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(LONGEST)
        with _before_each(count):
            command()
        count("the end")

    process = multiprocessing.get_context("fork").Process(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: those of the test runner hold no lock
        process.start()
    process.join()
    expected = signal.SIGKILL if inside is None else signal.SIGXFSZ
    assert process.exitcode == -expected, f"not killed at operation {number}: exit code {process.exitcode}"


@contextmanager
def _before_each(hook: Callable[[str], None]) -> Iterator[None]:
    """Call `hook` with the name of every operation that may change the disk, before it is done."""

    def hooked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name != "open" or _writes(arguments, options):
                hook(name)
            return function(*arguments, **options)

        return call

    # `open` of builtins and of pathlib are both `io.open`, by two names.
    places = [(os, name) for name in CHANGES] + [(io, "open"), (tensor_file, "save_file")]
    with ExitStack() as stack:
        for module, name in places:
            stack.enter_context(mock.patch.object(module, name, hooked(name, getattr(module, name))))
        yield


def _writes(arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    mode = options.get("mode", arguments[1] if len(arguments) > 1 else "r")
    return bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else any(letter in mode for letter in "wxa+")


def state(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by path: files and (empty) folders, without what no two runs have in common."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"\.[0-9a-f]{20}\.partial", ".partial", str(path.relative_to(folder)))
        content = b"" if path.is_dir() else path.read_bytes()
        if name.endswith("mingle.json"):
            content = re.sub(rb'"seconds": [0-9.e-]+', b"", content)
        elif name.endswith((".mingle-edge.lock", ".published.json")):
            content = re.sub(rb"[0-9]+", b"", content)  # process, time, inodes
        contents[name + "/" * path.is_dir()] = content
    return contents
