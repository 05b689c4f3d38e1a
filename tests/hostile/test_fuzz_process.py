"""The fuzz finds what must not be: targets that do each of it, and go on afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import ClassVar

import fuzz_process
import pytest
from fuzz_cases import Target, WrongAnswerError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and what a process does are read from /proc")


class Misbehaving(Target):
    """Does one thing after the other that must not be, by the number that its randomness begins with."""

    name = "misbehaving"
    refusals = (ConnectionError,)
    deeds = (
        lambda: "right, equal",
        lambda: (_ for _ in ()).throw(ConnectionResetError("one of ours")),
        lambda: (_ for _ in ()).throw(WrongAnswerError("a sum of 2")),
        lambda: (_ for _ in ()).throw(KeyError("not ours")),
        lambda: (_ for _ in ()).throw(SystemExit),
        lambda: os.kill(os.getpid(), signal.SIGSEGV),
        lambda: os._exit(3),
        lambda: time.sleep(60),
        lambda: sum(iter(int, 1)),
        lambda: bytes(1 << 40),
        lambda: b"x" * (60 << 20),
        lambda: subprocess.run(["true"], check=True),
        lambda: Path("outside").touch(),
        lambda: os.mkdir("outside folder"),
        lambda: sys.stdout.write("here\n"),
        lambda: os.write(2, b"here"),
        lambda: "right, equal",
    )
    numbers: ClassVar = [Random(f"0 misbehaving {number}").random() for number in range(len(deeds))]

    def __init__(self, corpus: Path, work: Path) -> None:
        os.chdir(corpus)

    def change(self, random: Random) -> str:
        self._number = self.numbers.index(random.random())
        return f"deed {self._number}"

    def answer(self) -> str:
        return self.deeds[self._number]() or ""

    def restore(self) -> None:
        """Nothing to undo."""


class Leaking(Misbehaving):
    """Leaves a file open in every case."""

    name = "leaking"
    files: ClassVar = []

    def change(self, random: Random) -> str:
        return str(random.random())

    def answer(self) -> str:
        self.files.append(os.open(os.devnull, os.O_RDONLY))
        return "right, equal"


def test_what_must_not_be_is_found(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(fuzz_process, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz_process, "ASLEEP", 0.3)
    monkeypatch.setattr(fuzz_process, "MEMORY", 50 << 20)
    outcomes = fuzz_process.run_cases(Misbehaving, tmp_path, 0, range(len(Misbehaving.deeds)))
    findings = [(finding.number, finding.change, finding.outcome.split(":")[0]) for finding in outcomes.findings]
    kinds = ["wrong", "foreign", "foreign", "crash", "crash", "hang", "hang", "foreign", "memory"]
    kinds += ["process", "file", "file", "printed", "printed"]
    assert findings == [(number, f"deed {number}", kind) for number, kind in enumerate(kinds, start=2)]
    assert outcomes.findings[3].outcome == "crash: SIGSEGV"
    assert outcomes.counts["refused: ConnectionResetError"] == 1
    assert outcomes.counts["right, equal"] == 2


def test_files_left_open_are_found_and_cases_repeat(tmp_path) -> None:
    outcomes = fuzz_process.run_cases(Leaking, tmp_path, 5, range(100))
    assert outcomes.counts == {"right, equal": 98, "descriptors": 2}
    again = fuzz_process.run_cases(Leaking, tmp_path, 5, [outcomes.findings[0].number])
    assert again.counts == {"right, equal": 1}
