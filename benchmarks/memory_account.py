"""The memory account of a bundle: what each step costs, in fresh processes, beside the tower without experts.

    python -m benchmarks.memory_account BUNDLE [--threads N] [--budget BYTES] [--repeats 3] [--runs 40] [--json FILE]

Every process imports, opens, runs one image, runs on until nothing more is loaded, and says after each step what it has in
memory: anonymous (must stay), of files (given back when others need it), and at its peak. What is compared runs in turn.
`named` names one task for every image, `routed` finds it, `all` names each in turn, `budget` does so under the smallest budget
or the one given; `low` opens with low_memory, `dense low` is the tower without experts, likewise unpacked.

"over dense" is steady resident memory beyond that of the dense tower of the same kind. "experts" are bytes of expert files in
the process's memory; Linux maps all of a folio where a page of it is touched. Images are the bundle's golden ones.

The latency price of low_memory is measured apart, interleaved in one process: the median and the quartiles of the ratios
of neighboring runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import apart
from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import Compared, compare_in_turn, shown
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.check.golden import read_golden
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.memory import mapped_bytes, process_memory
from mingle_edge_runtime.ort.session import CPU, Session

STEPS = ("opened", "first run", "steady")
WARM_UP = 4  # runs
RUNS = 12  # until steady, and at least once for each task


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, "bundle", threads=int, budget=int, repeats=3, runs=40).parse_args(options)
    index = Bundle.open(arguments.bundle).index
    expert = max(task.expert_bytes for task in index.tasks)
    budgets = {"budget": arguments.budget or index.top_k * expert}
    kinds = ["dense", "named", "routed", "all", "budget", "dense low", "named low", "all low"]
    accounts: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(arguments.repeats):
        for kind in kinds:
            asked = str(arguments.bundle.resolve()), kind, arguments.threads, budgets.get(kind)
            accounts[kind].append(apart.call(account, *asked))
    middle = {kind: median(results) for kind, results in accounts.items()}
    print(f"expert {expert / 1e6:.1f} MB")
    print(
        f"{'MB':<11}{'':<11}"
        + "".join(f"{step:>26}" for step in STEPS)
        + "   peak  experts  over dense   open s  first s  run ms"
    )
    for kind, result in middle.items():
        base = middle["dense low" if kind.endswith("low") else "dense"]
        over = resident(result) - resident(base)
        moments = "".join(f"{moment(result['account'][step]):>26}" for step in STEPS)
        peak, seconds = result["account"]["steady"]["peak"], result["seconds"]
        print(
            f"{kind:<11}{moments}{peak / 1e6:7.0f}{result['experts'] / 1e6:9.1f}{over / 1e6:12.1f}"
            f"{seconds['open']:9.2f}{seconds['first_run']:9.3f}{seconds['steady'] * 1e3:8.1f}"
        )
    price = low_memory_price(arguments.bundle, arguments.threads, arguments.runs)
    print(f"latency of low_memory: {shown(price)}, {price['median_ms']:.1f} ms")
    figures = {"expert_bytes": expert, "kinds": middle, "low_memory_price": price, "all": accounts}
    write_report(arguments.json, figures)


def account(path: str, kind: str, threads: int | None, budget: int | None = None, images: str | None = None) -> dict[str, Any]:
    """Open a bundle and run it until nothing more is loaded, on its own golden images or those of another bundle.

    Returns bytes in memory after each step, seconds, bytes of experts that opening has read, bytes of each mapped file in
    memory, and those of experts among them.
    """
    steps = {"imported": asdict(process_memory())}
    started = time.perf_counter()
    low = kind.endswith("low")
    tasks: Sequence[str | None]
    run: Callable[[NDArray[np.float32], str | None], object]
    if kind.startswith("dense"):
        bundle = Bundle.open(path)
        session = Session(bundle.graph(bundle.index.dense), [CPU], threads, prepack=not low)
        tasks, run, read = [None], lambda pixels, task: session.run({"pixel_values": pixels}), 0
    else:
        model = EdgeModel.open(path, expert_budget=budget, threads=threads, low_memory=low)
        bundle, run, read = model.bundle, model.scope.embed, model.stats().bytes_loaded
        tasks = {"named": model.tasks[:1], "routed": [None]}.get(kind.split()[0], model.tasks)
    opened = time.perf_counter() - started
    steps["opened"] = asdict(process_memory())
    pixels = preprocess(read_golden(Bundle.open(images or path))["images"], bundle.index.preprocess)
    seconds = []
    for i, task in enumerate(islice(cycle(tasks), max(RUNS, 2 * len(tasks)))):
        started = time.perf_counter()
        run(pixels[i % len(pixels)][None], task)
        seconds.append(time.perf_counter() - started)
        if i == 0:
            steps["first run"] = asdict(process_memory())
    steps["steady"] = asdict(process_memory())
    mapped = mapped_bytes(Path(path)) or {}
    experts = [task.expert for task in bundle.index.tasks] + [bundle.index.page_bank.file if bundle.index.page_bank else None]
    return {
        "account": steps,
        "seconds": {"open": opened, "first_run": seconds[0], "steady": float(np.median(seconds[len(seconds) // 2 :]))},
        "read_by_open": read,
        "mapped": mapped,
        "experts": sum(mapped.get(name, 0) for name in experts if name),
    }


def low_memory_price(bundle: Path, threads: int | None, runs: int) -> Compared:
    """Time runs with a named task, opened in both ways, in turn; return those with low memory against the usual."""
    models = [EdgeModel.open(bundle, threads=threads, low_memory=low) for low in (False, True)]
    task = models[0].tasks[0]
    pixels = preprocess(read_golden(models[0].bundle)["images"], models[0].bundle.index.preprocess)[:1]
    ways = {name: partial(model.scope.embed, pixels, task) for name, model in zip(("usual", "low"), models, strict=True)}
    return compare_in_turn(ways, runs, warm_up=WARM_UP, pause=0.005)["low"]


def resident(result: dict[str, Any]) -> int:
    """Return the bytes when steady."""
    return int(result["account"]["steady"]["resident"])


def moment(memory: dict[str, Any]) -> str:
    """Return one step's cell of the table, in MB: all, and in it anonymous and of files where the system tells."""
    split = [memory["anonymous"], memory["file"]]
    parts = f" ({' + '.join(f'{part / 1e6:.0f}' for part in split)})" if None not in split else ""
    return f"{memory['resident'] / 1e6:.0f}{parts}"


def median(results: list[Any]) -> Any:
    """Return the median, number by number, of equally built results; of what is no number, the first."""
    first = results[0]
    if isinstance(first, dict):
        return {key: median([result[key] for result in results if key in result]) for key in first}
    return float(np.median(results)) if isinstance(first, (int, float)) else first


if __name__ == "__main__":
    main()
