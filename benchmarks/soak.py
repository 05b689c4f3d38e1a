"""Many answers from racing threads, each compared bit for bit with one thread's: is anything wrong, or left behind?

    python -m benchmarks.soak [--answers 200000] [--threads 4] [--seed 0] [--json FILE]

Writes tiny bundles of both scopes, in fp32 and int8, with one expert a route and two, and asks them from several threads
that evict, pin, prefetch, change budgets, submit, stream, close and reopen. Exit code 1 where an answer differs, a call fails,
or memory or descriptors grow by more than the bounds below. Needs Linux, for /proc.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command import make_parser, write_report
from mingle_edge_runtime.bundle.index import Precision

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hostile"))
from soak_threads import Soak

KINDS: list[tuple[str, Precision, int]] = [
    *(("image", "fp32", 1), ("image", "fp32", 2), ("image", "int8", 1)),
    *(("layer", "fp32", 1), ("layer", "int8", 2)),
]
"""scope, precision, experts of a route"""
BYTES = 25.0  # an answer, that memory may grow by after the warm-up: 5 MB in 200,000
DESCRIPTORS = 1e-5  # an answer: 2 in 200,000


def main() -> None:
    """Write, ask, compare, tell."""
    arguments = make_parser(__doc__, answers=200_000, threads=4, seed=0).parse_args()
    with tempfile.TemporaryDirectory() as name:
        writer = multiprocessing.get_context("spawn").Process(target=write_bundles, args=(Path(name),))
        writer.start()  # a process of its own, so that what is measured is the runtime's memory alone
        writer.join()
        started = time.perf_counter()
        soak = Soak(sorted(Path(name, "bundles").iterdir()), arguments.seed)
        soak.run(arguments.answers, arguments.threads, give_back_free_memory)
    growth = {what: soak.growth(what) for what in ("anonymous", "resident", "descriptors")}
    bounds = {"anonymous": BYTES, "resident": BYTES, "descriptors": DESCRIPTORS}
    beyond = [what for what, bound in bounds.items() if growth[what] > bound]
    figures = {
        "answers": soak.answers,
        "threads": arguments.threads,
        "faults": soak.faults,
        "counts": dict(sorted(soak.counts.items())),
        "growth_per_answer": growth,
        "bounds_per_answer": bounds,
        "beyond": beyond,
        "samples": [vars(sample) for sample in soak.samples[:: max(1, len(soak.samples) // 10)]],
        "seconds": time.perf_counter() - started,
    }
    write_report(arguments.json, figures, show=True)
    sys.exit(1 if soak.faults or beyond else 0)


def give_back_free_memory() -> None:
    """Let the C library return what it holds but nobody uses, so that memory that grows is memory that was kept."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def write_bundles(root: Path) -> None:
    """Write a bundle of each kind into `root / "bundles"`."""
    from tiny_merged import write_merged

    from mingle_edge_export import ExportOptions, export_bundle

    for scope, precision, top_k in KINDS:
        merged = root / "merged" / scope
        if not merged.exists():
            write_merged(merged, scope=scope)
        folder = root / "bundles" / f"{scope}-{precision}-{top_k}"
        export_bundle(merged, folder, ExportOptions(top_k, precision=precision, min_cosine=0, min_route_agreement=0))


if __name__ == "__main__":
    main()
