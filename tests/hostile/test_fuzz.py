"""2,000 changed inputs, the same every time: each is answered rightly or refused by an error of the package's own tree.

`benchmarks/fuzz.py` runs as many more as one likes, and one by its number. That the fuzz finds what must not be is proved by
targets that do each of it, and go on afterwards.
"""

from __future__ import annotations

import json
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
from fuzz_corpus import write_corpus
from interpreters import every_interpreter, output_of

SEED = 20
RUNTIME_CASES = {"bundle.json": 350, "bundle files": 450, "verify": 100, "pictures": 400}
WORKSTATION_CASES = {
    "merged model": 200,
    "task file": 200,
    "parquet": 100,
    "webdataset": 100,
    "table": 60,
    "checkpoint": 100,
    "pictures, workstation": 100,
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and what a process does are read from /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """The untouched inputs."""
    return write_corpus(tmp_path_factory.mktemp("fuzz") / "corpus", exported=False)


@every_interpreter
@pytest.mark.parametrize("target", RUNTIME_CASES)
def test_the_runtime_answers_rightly_or_refuses(corpus, interpreter: str, target: str) -> None:
    options = ("--target", target, "--seed", SEED, "--count", RUNTIME_CASES[target])
    outcomes = json.loads(output_of(interpreter, fuzz_process.__file__, corpus, *options))
    assert outcomes["findings"] == []
    assert sum(outcomes["counts"].values()) == RUNTIME_CASES[target]


@pytest.mark.parametrize("target", WORKSTATION_CASES)
def test_the_workstation_answers_rightly_or_refuses(corpus, target: str) -> None:
    kind = fuzz_process.find_target(target)
    outcomes = fuzz_process.run_cases(kind, corpus, SEED, range(WORKSTATION_CASES[target]))
    assert outcomes.findings == []
    assert sum(outcomes.counts.values()) == WORKSTATION_CASES[target]


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
