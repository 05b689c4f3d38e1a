"""Twenty offline image tasks and the models of any number of pretraining seeds: `python -m research.suite -o DIR`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mingle_edge.core.device import choose_device
from mingle_edge.core.errors import MingleError
from mingle_edge.demo.baselines import evaluate_baseline
from mingle_edge.evaluation.evaluate import EvaluationReport
from research.suite.suite import make_suite
from research.suite.tasks import GROUPS, TASKS

MODELS = ("pretrained", "individual")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then print how well the models do on the test images."""
    parser = argparse.ArgumentParser("python -m research.suite", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="what is there already is kept")
    parser.add_argument("--pretraining-seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    given = parser.parse_args(arguments)
    if given.pretraining_seeds < 1:
        parser.error(f"--pretraining-seeds is {given.pretraining_seeds}; it must be at least 1")
    try:
        device = choose_device(given.device)
    except MingleError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # as many processes as cores compute
    started = time.monotonic()

    def progress(stage: str, done: int, total: int, detail: str = "") -> None:
        print(f"{time.monotonic() - started:6.0f} s  {stage} {done}/{total} {detail}", flush=True)

    seeds = range(given.pretraining_seeds)
    make_suite(given.output, seeds, device, progress, processes=os.cpu_count() or 1)
    files = {seed: given.output / f"seed-{seed}" / f"{GROUPS[-1]}.toml" for seed in seeds}
    print(*table({seed: {m: evaluate_baseline(file, m, seed=0) for m in MODELS} for seed, file in files.items()}), sep="\n")


def table(reports: Mapping[int, Mapping[str, EvaluationReport]]) -> list[str]:
    """Return lines of a Markdown table: mean P1 per group of tasks and pretraining seed, then per task over the seeds."""
    lines = ["| seed | tasks | pretrained | individual |", "|---|---|---|---|"]
    final = np.array([[of_seed[model].final["P1"] for model in MODELS] for of_seed in reports.values()])  # [seeds, models, T]
    for seed, of_seed in zip(reports, final, strict=True):
        lines += [f"| {seed} | {group} | {_cells(of_seed[:, :group].mean(1))} |" for group in GROUPS]
    lines += ["", "| task | pretrained | individual |", "|---|---|---|"]
    lines += [f"| {task.name} | {_cells(final[:, :, number].mean(0))} |" for number, task in enumerate(TASKS)]
    return lines


def _cells(values: np.ndarray) -> str:
    return " | ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
