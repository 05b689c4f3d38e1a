"""What opening a bundle and running it costs a process that imports the runtime alone."""

from __future__ import annotations

import time

import numpy as np

from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.ort.memory import process_memory

RUNS = 5


def open_and_run(path: str, threads: int | None, named: bool) -> dict[str, float]:
    """Open a bundle and run it, for its first task or routed.

    Returns seconds to open, bytes of experts read by then, and bytes in memory before and after `RUNS` runs.
    """
    started = time.perf_counter()
    with EdgeModel.open(path, threads=threads) as model:
        seconds = time.perf_counter() - started
        opened, read = process_memory().resident, model.stats().bytes_loaded
        side = model.bundle.index.preprocess.image_size
        pixels = np.zeros((1, 3, side, side), np.float32)
        for _ in range(RUNS):
            model.scope.embed(pixels, model.tasks[0] if named else None)
        steady = process_memory().resident
    return {"open_s": seconds, "opened_bytes": opened, "steady_bytes": steady, "expert_bytes_read": read}
