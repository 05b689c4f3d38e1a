"""2,000 changed inputs, the same every time: each is answered rightly or refused by an error of the package's own tree.

`benchmarks/fuzz.py` runs as many more as one likes, and one by its number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fuzz_process
import pytest
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
