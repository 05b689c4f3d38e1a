"""Independent parts of the demonstration side by side, on the cores there are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config

from mingle_edge.core.progress import Progress

PROCESSES = 4  # at most: each holds PyTorch, and no stage has more parts that take long

T = TypeVar("T")


def run_parts(stage: str, parts: Mapping[str, Callable[[], T]], progress: Progress, processes: int = PROCESSES) -> dict[str, T]:
    """Call named functions, which can be pickled as well as what they return, and return their results by name.

    One core or one process calls them one after another. More do it side by side, and end with this one when it is interrupted.
    The results do not depend on the number of cores: wherever a part runs, it has as many threads as PyTorch has here.
    """
    threads = torch.get_num_threads()
    results: dict[str, T] = {}
    progress(stage, 0, len(parts), next(iter(parts)))
    with parallel_config(backend="loky", inner_max_num_threads=threads), warnings.catch_warnings():
        # Where psutil is installed, joblib replaces processes that have grown, as those of a training do. It warns of that in a
        # thread whose end nobody would notice, were the warning an error.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        run = Parallel(n_jobs=min(processes, cpu_count()), return_as="generator_unordered", max_nbytes=None)
        for name, result in run(delayed(_run_part)(threads, name, part) for name, part in parts.items()):
            results[name] = result
            progress(stage, len(results), len(parts), name)
    return {name: results[name] for name in parts}


def _run_part(threads: int, name: str, part: Callable[[], T]) -> tuple[str, T]:
    torch.set_num_threads(threads)
    return name, part()
