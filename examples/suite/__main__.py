"""Twenty offline image tasks and the models of any number of pretraining seeds: `python examples/suite -o DIR`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from accuracy import measure, table
from contact_sheet import write_contact_sheet
from suite import make_suite

from mingle_edge.device import choose_device
from mingle_edge.errors import MingleError


def main() -> None:
    """Make what is missing, then print how well the models do on the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="what is there already is kept")
    parser.add_argument("--pretraining-seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    arguments = parser.parse_args()
    if arguments.pretraining_seeds < 1:
        parser.error(f"--pretraining-seeds is {arguments.pretraining_seeds}; it must be at least 1")
    try:
        device = choose_device(arguments.device)
    except MingleError as error:
        parser.error(str(error))
    seeds = range(arguments.pretraining_seeds)
    started = time.monotonic()

    def progress(stage: str, done: int, total: int, detail: str = "") -> None:
        print(f"{time.monotonic() - started:6.0f} s  {done:2d}/{total} {detail}", flush=True)

    with _pool(os.cpu_count() or 1) as cores, _pool(1) as one:  # processes start with their first job
        make_suite(arguments.output, seeds, device, cores, cores if device.type == "cpu" else one, progress)
    write_contact_sheet(arguments.output / "suite.png", arguments.output / "images")
    images = arguments.output / "images"
    print(*table({seed: measure(arguments.output / f"seed-{seed}", images, "test") for seed in seeds}), sep="\n")


def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes with one thread of computation each."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,))


if __name__ == "__main__":
    main()
