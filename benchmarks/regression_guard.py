"""Have the graphs become slower? Ratios to the dense tower against bounds that a noisy machine keeps; run by hand.

    python -m benchmarks.regression_guard [--runs 20] [--threads 1]

ViT-B/32, 8 tasks of rank 64, random weights. Exit code 1 where the lower quartile of a ratio is above its bound: noise makes
single runs slower, and rarely a quarter of them faster. Bounds are a tenth above what docs/performance.md states, in int8 for
the kind of processor this is.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.architectures import MODELS
from benchmarks.command import make_parser
from benchmarks.graph_variants import Bench, measure
from mingle_edge_runtime.ort.machine import machine_record

BOUNDS = {
    "image fp32, no expert": 1.10,
    "image fp32, named": 1.27,
    "image fp32, named, q k v fc1": 1.19,
    "image fp32, experts fp16, named": 1.25,
    "image fp32, experts int8, named": 1.17,
    "image int8, named": 0.45,
    "layer fp32, top 1": 1.34,
    "layer fp32, experts int8, top 1": 1.23,
    "layer int8, top 1": 0.48,
    "dense int8": 0.38,
}
WITHOUT_VNNI = {"image int8, named": 0.75, "layer int8, top 1": 0.78, "dense int8": 0.58}


def main(options: Sequence[str] | None = None) -> None:
    """Time, compare, tell."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(options)
    has_vnni = any("VNNI" in name for name in machine_record()["instruction_sets"] or ())
    bounds = BOUNDS if has_vnni else BOUNDS | WITHOUT_VNNI
    with tempfile.TemporaryDirectory() as name:
        variants = Bench(Path(name), MODELS["ViT-B-32"], 1, arguments.threads).variants()
        runs = {variant: variants[variant]() for variant in ("dense fp32", *bounds)}
        figures = measure(runs, arguments.runs, time.thread_time if arguments.threads == 1 else time.perf_counter)
    slower = []
    for variant, bound in bounds.items():
        low, high = figures[variant]["quartiles"]
        ratio = f"{figures[variant]['ratio_to_dense']:.3f} x  ({low:.3f} to {high:.3f})"
        print(f"{variant:<36} {ratio}  at most {bound}  {'ok' if low <= bound else 'SLOWER'}")
        slower += [variant] if low > bound else []
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
