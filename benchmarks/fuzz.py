"""Mutation fuzz: what becomes of inputs that an attacker or a failing disk has changed?

    python -m benchmarks.fuzz [--cases 100000] [--seed 0] [--target NAME ...] [--jobs 2] [--json FINDINGS]
    python -m benchmarks.fuzz --only 1234 --target "bundle files" [--seed 0]

Bundles (each file, with and without a corrected hash), merged models, exports of them, task files, parquet, checkpoints and
images, tiny all of them. Each case must end in an answer that is right, or in an error of the package's own tree: no
other exception, no crash, no more than 10 seconds or 512 MiB, no process started, no file written outside the work folder.
Targets of the runtime answer every case twice: with the newest ONNX Runtime, and with 1.20.1 where `MINGLE_ORT_1_20` names an
interpreter that has it. A case depends on seed, target and number alone; `--only` runs one and tells what it was. Exit code 1
where anything is wrong. Needs Linux.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, write_report
from mingle_edge_runtime.ort.machine import machine_record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hostile"))
import fuzz_corpus
import fuzz_process
import fuzz_runtime
import fuzz_workstation

ROOT = Path(__file__).parents[1]
TARGETS = {target.name: target for target in (*fuzz_runtime.TARGETS, *fuzz_workstation.TARGETS)}
CHUNK = 2500  # cases that one process is asked for
SHOWN = 5  # findings of a target that are printed


def main() -> None:
    """Write the inputs, run the cases, print a table."""
    parser = make_parser(__doc__, cases=100_000, seed=0, only=int, jobs=os.cpu_count() or 1)
    parser.add_argument("--target", action="append", help="all when none is named")
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"targets are {', '.join(TARGETS)}; {unknown[0]!r} is none")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        corpus = fuzz_corpus.write_corpus(Path(folder) / "corpus")
        if arguments.only is not None:
            tell_one(names, corpus, arguments.seed, arguments.only)
            return
        shares = {name: TARGETS[name].share for name in names}
        counts = {name: round(arguments.cases * share / sum(shares.values())) for name, share in shares.items()}
        outcomes = run_all(counts, corpus, arguments.seed, arguments.jobs)
    print_table(outcomes)
    seconds = time.perf_counter() - started
    print(f"{sum(counts.values())} cases, seed {arguments.seed}, in {seconds:.0f} s on {json.dumps(machine_record())}")
    findings = [
        {"onnxruntime": version, **finding} for (_, version), outcome in outcomes.items() for finding in outcome["findings"]
    ]
    write_report(arguments.json, {"findings": findings})
    sys.exit(1 if findings else 0)


def interpreters(target: str) -> dict[str, str]:
    """ONNX Runtime's version -> interpreter, of all that a target is run with."""
    newest = {"newest": sys.executable}
    old = os.environ.get("MINGLE_ORT_1_20")
    return newest | ({"1.20.1": old} if old and TARGETS[target] in fuzz_runtime.TARGETS else {})


def run_all(counts: dict[str, int], corpus: Path, seed: int, jobs: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Outcomes by target and ONNX Runtime, from processes side by side."""
    chunks = [
        (target, version, interpreter, first, min(CHUNK, count - first))
        for target, count in counts.items()
        for version, interpreter in interpreters(target).items()
        for first in range(0, count, CHUNK)
    ]
    by_target: dict[tuple[str, str], dict[str, Any]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda piece: run_piece(piece[0], piece[2], corpus, seed, *piece[3:]), chunks)
        for (target, version, *_), outcomes in zip(chunks, results, strict=True):
            whole = by_target.setdefault((target, version), {"counts": Counter(), "findings": []})
            whole["counts"].update(outcomes["counts"])
            whole["findings"] += outcomes["findings"]
    return by_target


def run_piece(target: str, interpreter: str, corpus: Path, seed: int, first: int, count: int) -> dict[str, Any]:
    """Outcomes of some cases, from a process of an interpreter."""
    paths = os.pathsep.join(map(str, (ROOT / "runtime", ROOT / "export", ROOT, ROOT / "tests")))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [interpreter, fuzz_process.__file__, str(corpus), "--target", target]
    command += ["--seed", str(seed), "--first", str(first), "--count", str(count)]
    run = subprocess.run(command, env=os.environ | threads | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}:\n{run.stderr}")
    outcomes: dict[str, Any] = json.loads(run.stdout)
    return outcomes


def tell_one(targets: Iterable[str], corpus: Path, seed: int, number: int) -> None:
    """Run one case of each target and print what it was."""
    for target in targets:
        for version, interpreter in interpreters(target).items():
            outcomes = run_piece(target, interpreter, corpus, seed, number, 1)
            print(f"{target}, {version}: {outcomes['counts']} {outcomes['findings']}")


def print_table(by_target: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Outcomes by target and ONNX Runtime, in Markdown, and some of what must not be."""
    print("| target | ONNX Runtime | cases | right | refused | must not be |\n| --- | --- | --- | --- | --- | --- |")
    for (target, version), outcomes in by_target.items():
        counts: dict[str, int] = outcomes["counts"]
        right: list[str] = []
        refused: list[str] = []
        wrong: list[str] = []
        for outcome, count in sorted(counts.items(), key=lambda pair: -pair[1]):
            column = right if outcome.startswith("right") else refused if outcome.startswith("refused") else wrong
            column.append(f"{outcome.removeprefix('right, ').removeprefix('refused: ')} {count}")
        cells = [target, version, sum(counts.values()), *(", ".join(column) or "0" for column in (right, refused, wrong))]
        print("| " + " | ".join(map(str, cells)) + " |")
    for (_, version), outcomes in by_target.items():
        for finding in outcomes["findings"][:SHOWN]:
            print(f"{finding['target']} {finding['number']}, {version}: {finding['change']}: {finding['outcome']}")


if __name__ == "__main__":
    main()
