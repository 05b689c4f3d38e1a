"""A process that is killed at a numbered operation on the file system: a fork of this one, so nothing is imported twice."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mingle_edge.merging import merged_model

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


def kill_before(command: Command, number: int) -> None:
    """Run a command in a process that is killed before its operation of this number, or when it is done with all of them."""
    reached = -1

    def count(_: str) -> None:
        nonlocal reached
        reached += 1
        if reached == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        with _before_each(count):
            command()
        if reached + 1 == number:
            os.kill(os.getpid(), signal.SIGKILL)

    status = _in_fork(run)
    assert status == -signal.SIGKILL, f"not killed before operation {number}: exit status {status}"


def kill_inside_save(command: Command, number: int) -> None:
    """Run a command in a process that is killed in the middle of its save of tensors of this number."""

    def run() -> None:
        left = number

        def save(tensors: dict[str, Any], path: Path, save_file: Callable[..., None] = merged_model.save_file) -> None:
            nonlocal left
            if left == 0:
                _limit_files(sum(array.nbytes for array in tensors.values()) // 2)
            left -= 1
            save_file(tensors, path)

        merged_model.save_file = save
        command()

    status = _in_fork(run)
    assert status == -signal.SIGXFSZ, f"not killed inside save {number}: exit status {status}"


def kill_at_size(command: Command, size: int) -> None:
    """Run a command in a process that is killed when a file that it writes grows beyond `size` bytes."""

    def run() -> None:
        _limit_files(size)
        command()

    status = _in_fork(run)
    assert status == -signal.SIGXFSZ, f"wrote no file of more than {size} bytes: exit status {status}"


def _limit_files(size: int) -> None:
    """The kernel kills this process where a file would grow beyond `size` bytes: by a signal that Python ignores."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _in_fork(run: Command) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: those of the test runner hold no lock
        child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a failed child says so by its status
            signal.alarm(LONGEST)
            run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
    places = [(os, name) for name in CHANGES] + [(io, "open"), (merged_model, "save_file")]
    before = [(module, name, getattr(module, name)) for module, name in places]
    try:
        for module, name, function in before:
            setattr(module, name, hooked(name, function))
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def _writes(arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    mode = options.get("mode", arguments[1] if len(arguments) > 1 else "r")
    return bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else any(letter in mode for letter in "wxa+")


def state(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by path: files and (empty) folders, without what no two runs have in common."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"\.[0-9a-f]{20}\.partial", ".partial", str(path.relative_to(folder)))
        if path.is_dir():
            found[f"{name}/"] = b""
            continue
        content = path.read_bytes()
        if name.endswith("mingle.json"):
            content = re.sub(rb'"seconds": [0-9.e-]+', b"", content)
        elif name.endswith((".mingle-edge.lock", ".published.json")):
            content = re.sub(rb"[0-9]+", b"", content)  # process, time, inodes
        found[name] = content
    return found
