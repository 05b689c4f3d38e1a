"""Image tasks and the models of any number of pretraining seeds: `python -m research.suite -o DIR`."""

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
from research.suite.collection import Collection
from research.suite.real.real import SCALE, Real
from research.suite.rendered import Rendered
from research.suite.scale import Scale
from research.suite.suite import DATA_SEED, make_suite

MODELS = ("pretrained", "individual")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then print how well the models do on the test images."""
    parser = argparse.ArgumentParser("python -m research.suite", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="what is there already is kept")
    parser.add_argument("--pretraining-seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default 3)")
    parser.add_argument(
        "--images", choices=("rendered", "real"), default="rendered", help="twenty tasks or ten (default rendered)"
    )
    parser.add_argument("--sources", type=Path, metavar="DIR", help="of real images: what research.suite.real.fetch wrote")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    given = parser.parse_args(arguments)
    if given.pretraining_seeds < 1:
        parser.error(f"--pretraining-seeds is {given.pretraining_seeds}; it must be at least 1")
    if (given.images == "real") != (given.sources is not None):
        parser.error("--sources DIR goes with --images real, and --images real needs it")
    try:
        device = choose_device(given.device)
        collection: Collection = Real(given.sources) if given.images == "real" else Rendered()
        scale = SCALE if given.images == "real" else Scale()
        for task in collection.tasks:
            collection.images_recipe(task, DATA_SEED, scale)  # a missing source is told before work begins
    except MingleError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # as many processes as cores compute
    started = time.monotonic()

    def progress(stage: str, done: int, total: int, detail: str = "") -> None:
        print(f"{time.monotonic() - started:6.0f} s  {stage} {done}/{total} {detail}", flush=True)

    seeds = range(given.pretraining_seeds)
    make_suite(given.output, seeds, device, progress, processes=os.cpu_count() or 1, collection=collection, scale=scale)
    files = {seed: given.output / f"seed-{seed}" / f"{collection.groups[-1]}.toml" for seed in seeds}
    reports = {seed: {m: evaluate_baseline(file, m, seed=0) for m in MODELS} for seed, file in files.items()}
    print(*table(reports, collection), sep="\n")


def table(reports: Mapping[int, Mapping[str, EvaluationReport]], collection: Collection) -> list[str]:
    """Return lines of a Markdown table: mean P1 per group of tasks and pretraining seed, then per task over the seeds."""
    lines = ["| seed | tasks | pretrained | individual |", "|---|---|---|---|"]
    final = np.array([[of_seed[model].final["P1"] for model in MODELS] for of_seed in reports.values()])  # [seeds, models, T]
    for seed, of_seed in zip(reports, final, strict=True):
        lines += [f"| {seed} | {group} | {_cells(of_seed[:, :group].mean(1))} |" for group in collection.groups]
    lines += ["", "| task | pretrained | individual |", "|---|---|---|"]
    lines += [f"| {task.name} | {_cells(final[:, :, number].mean(0))} |" for number, task in enumerate(collection.tasks)]
    return lines


def _cells(values: np.ndarray) -> str:
    return " | ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
