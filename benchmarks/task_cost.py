"""Does adding task 20 cost what adding task 2 cost? Seconds and peak resident memory of every task, for several ways to merge.

    python -m benchmarks.task_cost [--model tiny|ViT-B-32|ViT-B-16|ViT-L-14] [--tasks 20] [--kinds image,layer,opcm,...]
                                   [--threads N] [--json FILE] [-o FOLDER]

Merges random fine-tuned copies of a random backbone (see full_size.py) one after another, each kind in a process of its own.
`image` and `layer` are `mingle-edge merge` in that scope, from reading the checkpoint to the commit on disk, without adapting
experts, which depends on one task alone (expert_adaptation_time.py measures it); the others are methods of `mingle-edge
compare`, from reading the checkpoint to the merged weights. Peak memory is what the process holds at most during a task beyond
what it held after its imports (VmHWM less VmRSS; needs Linux).

Ratios are of the last task over task 2 and, because single tasks are noisy, of the medians of the last three over those of
tasks 2 to 4. Processor seconds say more than seconds where the machine is busy with other work. FOLDER (a temporary one
unless given) keeps the inputs, 350 MB a task at ViT-B/32, and the figures of finished kinds: the same command continues.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import apart
from benchmarks.architectures import MODELS
from benchmarks.command import make_parser, write_report
from benchmarks.full_size import write_inputs, write_task_file
from mingle_edge.checkpoints import open_checkpoint
from mingle_edge.clip.head import Head
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.registry import SPECS
from mingle_edge.data.image_set import ImageSet
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.merging.merge import merge
from mingle_edge_runtime.ort.machine import machine_record

RANK = {"tiny": 16}
SCOPES = ("image", "layer")
STATIC = {name: spec for name, spec in SPECS.items() if spec.implementation.startswith("static:")}
Figures = list[dict[str, float]]


class Meter:
    """Seconds, processor seconds and peak resident memory between two moments."""

    def __init__(self) -> None:
        self.figures: Figures = []
        self._imported = memory("VmRSS")
        self._started = self._processor = 0.0

    def start(self) -> None:
        """Start with a task."""
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back
        self._started, self._processor = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Stop: the task is merged."""
        seconds, processor = time.perf_counter() - self._started, time.process_time() - self._processor
        peak = memory("VmHWM") - self._imported
        self.figures.append({"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak})


def memory(field: str) -> int:
    """Return the bytes of one field of Linux's account of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, tasks=20, kinds="image,layer,weight-averaging,opcm", threads=int)
    parser.add_argument("--model", default="tiny", choices=list(MODELS))
    parser.add_argument("-o", "--output", type=Path, help="keep inputs and figures here")
    arguments = parser.parse_args(options)
    kinds = arguments.kinds.split(",")
    if unknown := sorted(set(kinds) - {*SCOPES, *STATIC}):
        parser.error(f"--kinds: there is no {', '.join(unknown)}; there are {', '.join((*SCOPES, *STATIC))}")
    if arguments.tasks < 3:
        parser.error(f"--tasks must be at least 3, not {arguments.tasks}: the second is compared with the last")
    with tempfile.TemporaryDirectory() as temporary:
        by_kind = measure_all(kinds, arguments.output or Path(temporary), arguments)
    machine, rank = machine_record(), RANK.get(arguments.model, 64)
    print(f"{arguments.model}, {arguments.tasks} tasks, rank {rank}, {arguments.threads or 'all'} threads")
    print(f"{machine['cpu']}, {machine['usable_cores']} cores, load average {machine['load_average'][1]:.1f} (5 minutes)\n")
    print(table(by_kind))
    write_report(arguments.json, {"torch": torch.__version__, "figures": by_kind})


def measure_all(kinds: list[str], folder: Path, arguments: argparse.Namespace) -> dict[str, Figures]:
    """Measure each kind by task; what an earlier run with the same options left is kept."""
    if arguments.threads:
        # For NumPy's own threads, which the processes read when they import it.
        os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(arguments.threads))
    folder.mkdir(parents=True, exist_ok=True)
    model, tasks = arguments.model, arguments.tasks
    inputs = folder / f"inputs-{model}"
    write_inputs(inputs, MODELS[model], tasks)
    results = folder / f"task_cost-{model}-{tasks}.json"
    known: dict[str, Figures] = json.loads(results.read_text()) if results.exists() else {}
    for kind in kinds:
        if kind not in known:  # memory starts anew with each kind
            work = merge_tasks if kind in SCOPES else add_tasks
            known[kind] = apart.call(work, kind, str(inputs.resolve()), model, tasks, arguments.threads)
            results.write_text(json.dumps(known, indent=1) + "\n")
    return {kind: known[kind] for kind in kinds}


def merge_tasks(scope: str, inputs: str, model: str, tasks: int, threads: int | None) -> Figures:
    """Run `mingle-edge merge` of all tasks, measured where it reports that a task begins and is committed."""
    if threads:
        torch.set_num_threads(threads)
    meter = Meter()

    def progress(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "merge":  # with the task's name where it begins
            (meter.start if detail else meter.stop)()

    with tempfile.TemporaryDirectory(dir=inputs) as output:
        steps = 0 if scope == "image" else None
        task_file = write_task_file(Path(inputs), scope, tasks, RANK.get(model, 64), steps)
        merge(task_file, Path(output) / "merged", device="cpu", progress=progress)
    return meter.figures


def add_tasks(name: str, inputs: str, model: str, tasks: int, threads: int | None) -> Figures:
    """Run a static method over all tasks once, with its published parameters."""
    if threads:
        torch.set_num_threads(threads)
    architecture = MODELS[model]
    backbone = dict(open_checkpoint("backbone", base=Path(inputs), architecture=architecture).tensors())
    workbench = Workbench(backbone, architecture, torch.device("cpu"), seed=0)
    spec, meter = STATIC[name], Meter()
    method = spec.build(workbench, spec.published(tasks))
    for t in range(tasks):
        meter.start()
        tower = dict(open_checkpoint(f"task{t}", base=Path(inputs), architecture=architecture).tensors())
        head = Head(torch.zeros(2, architecture.output_dim), None, 100.0)  # of no concern to a static method
        method.add(FinetunedTask(f"task{t}", tower, head, ImageSet([])))
        meter.stop()
    return meter.figures


def table(by_kind: dict[str, Figures]) -> str:
    """Return a Markdown table, one row for each kind."""
    last = len(next(iter(by_kind.values())))
    measured = f"seconds, task 2 | task {last} | ratio | of medians | processor, of medians"
    lines = [
        f"| | {measured} | peak MiB, task 2 | task {last} | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, figures in by_kind.items():
        names = ("seconds", "processor_seconds", "peak_bytes")
        seconds, processor, peak = ([task[name] for task in figures] for name in names)
        cells = [f"{seconds[1]:.3g}", f"{seconds[-1]:.3g}", f"{seconds[-1] / seconds[1]:.2f}"]
        cells += [f"{of_medians(seconds):.2f}", f"{of_medians(processor):.2f}"]
        cells += [f"{peak[1] / 2**20:.0f}", f"{peak[-1] / 2**20:.0f}", f"{peak[-1] / peak[1]:.2f}"]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def of_medians(values: list[float]) -> float:
    """Return the median of the last three over the median of the second to the fourth."""
    return statistics.median(values[-3:]) / statistics.median(values[1:4])


if __name__ == "__main__":
    main()
