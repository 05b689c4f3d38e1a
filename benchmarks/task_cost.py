"""Does adding task 20 cost what adding task 2 cost? Seconds and peak resident memory of every task, for several ways to merge.

    python benchmarks/task_cost.py [--model tiny|ViT-B-32|ViT-B-16|ViT-L-14] [--tasks 20] [--kinds image,layer,opcm,...]
                                   [--threads N] [--json FILE] [-o FOLDER]

Merges random fine-tuned copies of a random backbone (see full_size.py) one after another, each kind in a process of its own.
`image` and `layer` are `mingle-edge merge` in that scope, from reading the checkpoint to the commit on disk; the others are
methods of `mingle-edge compare`, from reading the checkpoint to the merged weights. Peak memory is what the process holds at
most during a task beyond what it held after its imports (Linux: VmHWM, reset through /proc/self/clear_refs, less VmRSS).

Ratios are of the last task over task 2 and, because single tasks are noisy, of the medians of the last three over those of
tasks 2 to 4. Processor seconds say more than seconds where the machine is busy with other work. FOLDER (a temporary one
unless given) keeps the inputs, 350 MB a task at ViT-B/32, and the figures of finished kinds: the same command continues.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from full_size import write_inputs, write_task_file

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.comparison.method import ComparedTask, Workbench
from mingle_edge.merge import merge
from mingle_edge.methods.static import SPECS
from mingle_edge.seeds import SeedImages
from mingle_edge_runtime.machine import machine_record

TINY = VisionArchitecture(64, 16, 96, 4, 4, 384, 64, "quick_gelu")
RANK = {"tiny": 16}
SCOPES = ("image", "layer")
STATIC = {spec.name: spec for spec in SPECS if spec.name not in ("pretrained", "individual")}
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Figures = list[dict[str, float | None]]


class Meter:
    """Seconds, processor seconds and peak resident memory between two moments."""

    def __init__(self) -> None:
        self.figures: Figures = []
        self._imported = memory("VmRSS")
        self._started = self._processor = 0.0

    def start(self) -> None:
        """A task begins."""
        if self._imported is not None:
            RESET.write_text("5")
        self._started, self._processor = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """It is merged."""
        seconds, processor = time.perf_counter() - self._started, time.process_time() - self._processor
        self.figures.append({"seconds": seconds, "processor_seconds": processor, "peak_bytes": None})
        if self._imported is not None:
            self.figures[-1]["peak_bytes"] = (memory("VmHWM") or 0) - self._imported


def memory(field: str) -> int | None:
    """Bytes of one field of Linux's account of this process; None elsewhere."""
    if not RESET.exists():
        return None
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=["tiny", "ViT-B-32", "ViT-B-16", "ViT-L-14"])
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--kinds", default="image,layer,weight-averaging,opcm", help=f"of {', '.join((*SCOPES, *STATIC))}")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("-o", "--output", type=Path, help="keep inputs and figures here")
    arguments = parser.parse_args()
    arguments.rank = RANK.get(arguments.model, 64)
    kinds = arguments.kinds.split(",")
    if unknown := sorted(set(kinds) - {*SCOPES, *STATIC}):
        parser.error(f"--kinds: there is no {', '.join(unknown)}; there are {', '.join((*SCOPES, *STATIC))}")
    if arguments.tasks < 3:
        parser.error(f"--tasks must be at least 3, not {arguments.tasks}: the second is compared with the last")
    with tempfile.TemporaryDirectory() as temporary:
        found = measure_all(kinds, arguments.output or Path(temporary), arguments)
    machine = machine_record()
    print(f"{arguments.model}, {arguments.tasks} tasks, rank {arguments.rank}, {arguments.threads or 'all'} threads")
    print(f"{machine['cpu']}, {machine['usable_cores']} cores, load average {machine['load_average'][1]:.1f} (5 minutes)\n")
    print(table(found))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": machine, "torch": torch.__version__, "figures": found}, indent=1) + "\n"
        )


def measure_all(kinds: list[str], folder: Path, arguments: argparse.Namespace) -> dict[str, Figures]:
    """The figures of each kind by task; what an earlier run with the same options left is kept."""
    if arguments.threads:
        # For NumPy's own threads, which the processes read when they import it.
        os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(arguments.threads))
    folder.mkdir(parents=True, exist_ok=True)
    model = f"{arguments.model}-quickgelu"
    arguments.architecture = TINY if arguments.model == "tiny" else read_architecture(model, folder)
    inputs = folder / f"inputs-{arguments.model}"
    write_inputs(inputs, arguments.architecture, arguments.tasks)
    results = folder / f"task_cost-{arguments.model}-{arguments.tasks}.json"
    known: dict[str, Figures] = json.loads(results.read_text()) if results.exists() else {}
    for kind in kinds:
        if kind in known:
            continue
        work = merge_tasks if kind in SCOPES else add_tasks
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # memory starts anew with each kind
            known[kind] = pool.apply(in_process, (work, kind, inputs, arguments))
        results.write_text(json.dumps(known, indent=1) + "\n")
    return {kind: known[kind] for kind in kinds}


def in_process(work: Callable[..., Figures], kind: str, inputs: Path, arguments: argparse.Namespace) -> Figures:
    """Run in a fresh process: its threads, then the work."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return work(kind, inputs, arguments)


def merge_tasks(scope: str, inputs: Path, arguments: argparse.Namespace) -> Figures:
    """`mingle-edge merge` of all tasks, measured where it reports that a task begins and is committed."""
    meter = Meter()

    def progress(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "task":
            (meter.start if done < total else meter.stop)()

    with tempfile.TemporaryDirectory(dir=inputs) as output:
        merge(write_task_file(inputs, scope, arguments), Path(output) / "merged", device="cpu", progress=progress)
    return meter.figures


def add_tasks(name: str, inputs: Path, arguments: argparse.Namespace) -> Figures:
    """One run of a static method over all tasks, with its published parameters."""
    architecture: VisionArchitecture = arguments.architecture
    backbone = dict(open_checkpoint("backbone", base=inputs, architecture=architecture).tensors())
    workbench = Workbench(backbone, architecture, 100.0, torch.device("cpu"), seed=0)
    spec, meter = STATIC[name], Meter()
    method = spec.build(workbench, spec.published(arguments.tasks))
    for t in range(arguments.tasks):
        meter.start()
        tower = dict(open_checkpoint(f"task{t}", base=inputs, architecture=architecture).tensors())
        tower.setdefault("projection.weight", backbone["projection.weight"])
        head = torch.zeros(2, architecture.output_dim)  # of no concern to a static method
        method.add(ComparedTask(f"task{t}", tower, head, SeedImages([], architecture)))
        meter.stop()
    return meter.figures


def table(found: dict[str, Figures]) -> str:
    """A Markdown table, one row for each kind."""
    last = len(next(iter(found.values())))
    measured = f"seconds, task 2 | task {last} | ratio | of medians | processor, of medians"
    lines = [
        f"| | {measured} | peak MiB, task 2 | task {last} | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, figures in found.items():
        seconds = column(figures, "seconds")
        processor = column(figures, "processor_seconds")
        cells = [f"{seconds[1]:.3g}", f"{seconds[-1]:.3g}", f"{seconds[-1] / seconds[1]:.2f}"]
        cells += [f"{of_medians(seconds):.2f}", f"{of_medians(processor):.2f}"]
        if figures[0]["peak_bytes"] is None:
            cells += ["not told here", "", ""]
        else:
            peak = column(figures, "peak_bytes")
            cells += [f"{peak[1] / 2**20:.0f}", f"{peak[-1] / 2**20:.0f}", f"{peak[-1] / peak[1]:.2f}"]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def column(figures: Figures, name: str) -> list[Any]:
    """One figure of every task."""
    return [task[name] for task in figures]


def of_medians(values: list[float]) -> float:
    """The median of the last three over the median of the second to the fourth."""
    return statistics.median(values[-3:]) / statistics.median(values[1:4])


if __name__ == "__main__":
    main()
