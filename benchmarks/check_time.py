"""What `mingle-edge check` takes at full size: seconds, processor seconds and peak memory.

    python -m benchmarks.check_time [--model ViT-B-32] [--tasks 8] [--threads N] [--json FILE] [-o FOLDER]

Checks random fine-tuned copies of a random backbone (see full_size.py), 50 calibration images each, by the command a user
would type, in a process of its own; the figures are the system's, with everything from the start of Python on. Where the
machine is busy with other work, processor seconds at one thread say what it would take alone: several threads that wait for
one another count as work. FOLDER (a temporary one unless given) keeps the inputs, 350 MB a task at ViT-B/32.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.architectures import MODELS
from benchmarks.command import make_parser, write_report
from benchmarks.full_size import write_inputs, write_task_file

RANK = 64
COMMAND = "from mingle_edge.cli import main; main()"


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, tasks=8, threads=int)
    parser.add_argument("--model", default="ViT-B-32", choices=list(MODELS))
    parser.add_argument("-o", "--output", type=Path, help="keep the inputs here")
    arguments = parser.parse_args(options)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(arguments.output or Path(temporary), arguments)
    write_report(arguments.json, figures, show=True)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Return the figures of one check, whose own report goes to FOLDER."""
    inputs = folder / f"inputs-{arguments.model}"
    write_inputs(inputs, MODELS[arguments.model], arguments.tasks)
    task_file = write_task_file(inputs, "image", arguments.tasks, RANK)
    report = folder / f"check-{arguments.model}-{arguments.tasks}.json"
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if arguments.threads else ()
    environment = os.environ | dict.fromkeys(names, str(arguments.threads))
    command = [sys.executable, "-c", COMMAND, "check", str(task_file), "--json", str(report)]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, processor = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
    return {
        "model": arguments.model,
        "tasks": arguments.tasks,
        "threads": arguments.threads or "all",
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "peak_gib": round(usage.ru_maxrss * unit / 2**30, 2),
    }


if __name__ == "__main__":
    main()
