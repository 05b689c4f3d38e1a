"""Runs fuzz cases in forked processes, under limits, and tells what became of each.

A process answers case after case. Where one ends it or keeps it, that case is written down and a new process goes on with
the next. A case is determined by the seed, its target and its number alone.

    python tests/hostile/fuzz_process.py CORPUS --target NAME [--seed N] [--first A] [--count N]

prints the outcomes as JSON. Needs Linux, for /proc.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from fuzz_cases import Target, WrongAnswerError

MEMORY = 512 << 20  # bytes that one case may add at most
ADDRESS_SPACE = 3 << 30  # bytes beyond what a new process has, so that no case takes the machine's memory
SECONDS = 10.0  # of processor time
ASLEEP = 5.0  # seconds that a process may wait for something
DESCRIPTORS = 40  # that a process may have more than at its first case
FAULTS = ("wrong", "foreign", "crash", "hang", "memory", "process", "file", "descriptors", "printed")
"""Outcomes that must not be: an answer that is not right; an error of another tree; a process that ended, that did not end,
that took too much memory, started another, opened a file or a socket outside its folder, kept files open, or wrote to the
terminal."""
_BROKEN = "the fuzz itself failed: "
_FORK = multiprocessing.get_context("fork")
_STARTS = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"}
_CONNECTS = {"socket.connect", "socket.getaddrinfo", "socket.bind"}
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.chown"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Finding:
    """A case that must not be."""

    target: str
    number: int
    change: str
    outcome: str


@dataclass
class Outcomes:
    """What became of the cases of one target."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, target: str, number: int, outcome: str, change: str) -> None:
        """Count one case, and keep it where it must not be."""
        kind = outcome.split(":")[0]
        self.counts[outcome if kind == "refused" else kind] += 1
        if kind in FAULTS:
            self.findings.append(Finding(target, number, change, outcome))


def run_cases(kind: type[Target], corpus: Path, seed: int, numbers: Iterable[int]) -> Outcomes:
    """Run the cases of one target with these numbers."""
    outcomes, left = Outcomes(), deque(numbers)
    memory = Path("/dev/shm")
    while left:  # in processes that follow each other
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as work:
            lines, out = _FORK.Pipe(duplex=False)
            process = _FORK.Process(target=_child, args=(kind, corpus, Path(work), seed, list(left), out))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which hold nothing that is used
                process.start()
            out.close()
            change = ""
            try:
                while left:
                    change = _next_line(process, lines)
                    outcomes.add(kind.name, left[0], _next_line(process, lines), change)
                    left.popleft()
            except _EndedError as ended:
                outcomes.add(kind.name, left.popleft(), str(ended), change)
            process.join()
    return outcomes


class _EndedError(Exception):
    """A process says no more, and how it ended."""


def _next_line(process: BaseProcess, lines: Connection) -> str:
    """What a process says next: of every case its change, and then its outcome. Raises `_EndedError`."""
    since, used = time.monotonic(), _processor_seconds(process)
    while not lines.poll(0.5):
        busy, waited = _processor_seconds(process) - used, time.monotonic() - since
        if busy > SECONDS or (waited > ASLEEP and busy < 0.1 and _stat(process)[0] == "S"):
            process.kill()
            raise _EndedError(f"hang: {busy:.0f} s of processor time in {waited:.0f} s")
    try:
        line: str = lines.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        raise _EndedError(f"crash: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}") from None
    if line.startswith(_BROKEN):
        raise RuntimeError(line)
    return line


def _child(kind: type[Target], corpus: Path, work: Path, seed: int, numbers: list[int], out: Connection) -> None:
    """Answer cases one by one, and say what was changed and what became of it."""
    try:
        watch = _Watch(work, _redirected(work))
        target = kind(corpus, work / "target" / "inputs")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + ADDRESS_SPACE, -1))
        for number in numbers:
            out.send(_run_case(target, seed, number, watch, out.send))
    except BaseException:
        out.send(f"{_BROKEN}{traceback.format_exc()}")
    finally:
        os._exit(0)


def _redirected(work: Path) -> int:
    """Let this process write below `work` alone, and what it prints to a file there, whose descriptor is returned."""
    warnings.simplefilter("ignore")
    faulthandler.disable()  # as pytest has it: a crash is told by whoever waits for this process
    os.environ["TMPDIR"] = os.environ["MINGLE_EDGE_CACHE"] = str(work / "temporary")
    (work / "temporary").mkdir()
    tempfile.tempdir = None
    printed = os.open(work / "printed", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.stdout = sys.stderr = os.fdopen(printed, "w", buffering=1)
    os.chdir(work)  # so that names relative to an open folder, which is inside if it may be written to, count as inside
    return printed


def _run_case(target: Target, seed: int, number: int, watch: _Watch, tell: Callable[[str], None]) -> str:
    """Run one case in this process. Returns its outcome, after it has told what was changed."""
    random = Random(f"{seed} {target.name} {number}")
    try:
        tell(target.change(random))
        watch.start()
        try:
            outcome = target.answer()
        except target.refusals as error:
            str(error), repr(error)  # must not raise either
            outcome = f"refused: {type(error).__name__}"
        except WrongAnswerError as error:
            outcome = f"wrong: {error}"
        except (Exception, SystemExit) as error:
            (*_, frame) = traceback.extract_tb(error.__traceback__)
            outcome = f"foreign: {type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:200]!r}"
        outcome = watch.fault(target.quiet) or outcome
    finally:
        target.restore()
    return outcome


class _Watch:
    """What a case does besides answering."""

    def __init__(self, work: Path, printed: int) -> None:
        self._inside = (f"{work}/", "/dev/null", "/proc/")
        self._printed = printed
        self._fault = ""
        self._active = False
        self._files = 0
        sys.addaudithook(self._hear)

    def start(self) -> None:
        """Begin with a case."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        self._fault, self._active = "", True
        self._before = _status("VmRSS")
        self._files = self._files or _descriptors()

    def fault(self, quiet: bool) -> str:
        """End the case: what it must not have done, if anything. quiet: whether it must not write to the terminal."""
        self._active = False
        grown = _status("VmHWM") - self._before
        if self._fault:
            return self._fault
        if grown > MEMORY:
            return f"memory: {grown >> 20} MiB"
        if size := os.fstat(self._printed).st_size:
            text = os.pread(self._printed, 200, 0)
            os.ftruncate(self._printed, 0)
            if quiet:
                return f"printed: {size} bytes: {text!r}"
        if _descriptors() > self._files + DESCRIPTORS:
            gc.collect()
            if (now := _descriptors()) > self._files + DESCRIPTORS:
                self._files = now
                return f"descriptors: {now}"
        return ""

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in _STARTS or event in _CONNECTS:
            self._fault = f"{'process' if event in _STARTS else 'file'}: {event} {arguments[0]!r}"
        elif (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES) or event in _CHANGES:
            for path in arguments[event == "os.symlink" : 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
                if isinstance(path, str | bytes | os.PathLike) and not self._allowed(os.fsdecode(path)):
                    self._fault = f"file: {event} {path!r}"

    def _allowed(self, path: str) -> bool:
        whole = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        return whole.startswith(self._inside)


def _status(name: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) << 10
    raise KeyError(name)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _stat(process: BaseProcess) -> list[str]:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()


def _processor_seconds(process: BaseProcess) -> float:
    return sum(map(int, _stat(process)[11:13])) / os.sysconf("SC_CLK_TCK")


def find_target(name: str) -> type[Target]:
    """A target by its name; those of the workstation are imported, with torch, only where one of them is asked for."""
    import fuzz_runtime

    known = {target.name: target for target in fuzz_runtime.TARGETS}
    if name not in known:
        import fuzz_workstation

        known |= {target.name: target for target in fuzz_workstation.TARGETS}
    return known[name]


def main() -> None:
    """Run the cases of one target and print their outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.count)
    outcomes = run_cases(find_target(arguments.target), arguments.corpus, arguments.seed, numbers)
    sys.stdout.write(json.dumps({"counts": outcomes.counts, "findings": [asdict(finding) for finding in outcomes.findings]}))


if __name__ == "__main__":
    main()
