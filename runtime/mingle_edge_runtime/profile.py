"""What a bundle costs on this machine: time to open, latency, throughput, memory, expert traffic, and all of it beside the
same tower without experts.

What is compared is interleaved run by run in one process, so that a machine that slows down slows down both; ratios are of
medians, with the quartiles of the ratios of neighbouring runs as their spread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import count, cycle, islice
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.edge_model import EdgeModel
from mingle_edge_runtime.errors import EdgeError, ImageError
from mingle_edge_runtime.machine import machine_record
from mingle_edge_runtime.memory import process_memory
from mingle_edge_runtime.preprocess import Picture, Pictures, pictures, preprocess
from mingle_edge_runtime.session import Session, onnxruntime, resolve_providers
from mingle_edge_runtime.verify import read_golden

BATCH_SIZES = (1, 4, 16)
_PERCENTILES = (50, 90, 95, 99)
_MOST_IMAGES = 64  # kept in memory and taken in turn
_WARM_UP = 3  # rounds before anything is timed
_LEAST_ROUNDS = 5
_PAUSE = 0.005  # seconds, for the threads of the run before to fall asleep
Progress: TypeAlias = Callable[[int, int], None]
_Run: TypeAlias = Callable[[NDArray[np.float32]], object]
_Report: TypeAlias = dict[str, Any]


def profile(
    path: str | PathLike[str],
    images: Pictures | None = None,
    runs: int = 50,
    against_dense: bool = True,
    expert_budget: int | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    progress: Progress | None = None,
) -> _Report:
    """Measure a bundle; every value can be written as JSON, times are in seconds, memory in bytes.

    images: taken in turn, the bundle's golden images when None. runs: timed runs of each kind at batch 1, and about as many
    images at the other batch sizes. against_dense: time the tower without experts as well. progress: called with runs done
    and their total.

    "open" is the first in this process; the system may have the files in its cache. "named" tells the task, each in
    turn; "routed" finds the route. Latencies are of preprocessed images.
    """
    if runs < 1 or min(batch_sizes, default=1) < 1:
        raise EdgeError(f"runs is {runs} and batch_sizes {list(batch_sizes)}: all must be at least 1")
    seconds = {"import_onnxruntime": _seconds(onnxruntime)}
    memory = {"before": asdict(process_memory())}
    started = time.perf_counter()
    with EdgeModel.open(path, expert_budget, providers, threads) as model:
        seconds["open"] = time.perf_counter() - started
        memory["opened"] = asdict(process_memory())
        bundle = model.bundle
        batch = _first_images(bundle, images)
        pixels = preprocess(batch, bundle.index.preprocess)
        seconds["first_run"] = _seconds(model.scope.embed, pixels[:1])
        memory["first_run"] = asdict(process_memory())
        seconds["preprocess_per_image"] = _seconds(preprocess, batch, bundle.index.preprocess) / len(batch)
        kinds = _kinds(model)
        _interleave(kinds, pixels, 1, max(_WARM_UP, len(model.tasks)), _ticker(0, None))
        memory["steady"] = asdict(process_memory())
        if against_dense:
            kinds["dense"] = _dense(bundle, resolve_providers(providers), threads)
            _interleave({"dense": kinds["dense"]}, pixels, 1, _WARM_UP, _ticker(0, None))
        rounds = {size: max(_LEAST_ROUNDS, runs // size) for size in batch_sizes} | {1: runs}
        tick = _ticker(sum(rounds.values()) * len(kinds), progress)
        times = {size: _interleave(kinds, pixels, size, rounds[size], tick) for size in sorted(rounds)}
        return {
            "bundle": _identity(bundle),
            "settings": {"runs": runs, "threads": threads, "providers": resolve_providers(providers), "images": len(batch)},
            "machine": machine_record(),
            "seconds": seconds,
            "latency": {kind: _distribution(found) for kind, found in times[1].items()},
            "ratio_to_dense": _ratios(times[1]),
            "images_per_second": [
                {"batch": size} | {kind: size / float(np.median(found)) for kind, found in by_kind.items()}
                for size, by_kind in times.items()
            ],
            "memory": memory,
            "experts": asdict(model.stats()),
        }


def _first_images(bundle: Bundle, images: Pictures | None) -> list[Picture]:
    if images is None:
        return list(read_golden(bundle)["images"])
    found = [image for _, image in islice(pictures(images), _MOST_IMAGES)]
    if not found:
        raise ImageError("there is no image to profile with: give at least one, or none for the bundle's own")
    return found


def _kinds(model: EdgeModel) -> dict[str, _Run]:
    """What is timed, by name: one call runs a batch of `pixel_values`."""
    tasks = cycle(model.tasks)
    return {
        "named": lambda values: model.scope.embed(values, next(tasks)),
        "routed": lambda values: model.scope.embed(values),
    }


def _dense(bundle: Bundle, providers: Sequence[str], threads: int | None) -> _Run:
    session = Session(bundle.graph(bundle.index.dense), providers, threads)
    return lambda values: session.run({"pixel_values": values})


def _interleave(
    kinds: dict[str, _Run], pixels: NDArray[np.float32], size: int, rounds: int, tick: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of every run by kind; in each round all kinds run on the same `size` images, another one first.

    The order turns round every other time, so that none always follows the same other one.
    """
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    names = list(kinds)
    for i in range(rounds):
        values = pixels[np.arange(i * size, (i + 1) * size) % len(pixels)]
        order = names[i % len(names) :] + names[: i % len(names)]
        for kind in order if i % 2 else reversed(order):
            time.sleep(_PAUSE)
            times[kind].append(_seconds(kinds[kind], values))
            tick()
    return times


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def _ticker(total: int, progress: Progress | None) -> Callable[[], None]:
    """A function that reports one more of `total` runs done."""
    done = count(1)

    def tick() -> None:
        if progress:
            progress(next(done), total)

    return tick


def _distribution(times: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(times, p)) for p in _PERCENTILES}


def _ratios(times: dict[str, list[float]]) -> dict[str, _Report]:
    """Each kind against dense: ratio of medians, and quartiles of the ratios within rounds."""
    dense = times.get("dense")
    if dense is None:
        return {}
    ratios = {}
    for kind in times.keys() - {"dense"}:
        low, high = np.percentile(np.divide(times[kind], dense), (25, 75))
        ratio = float(np.median(times[kind]) / np.median(dense))
        ratios[kind] = {"ratio": ratio, "quartiles": [float(low), float(high)]}
    return ratios


def _identity(bundle: Bundle) -> _Report:
    index = bundle.index
    return {
        "scope": index.scope,
        "precision": index.precision,
        "tasks": list(index.task_names),
        "top_k": index.top_k,
        "expert_bytes": {task.name: task.expert_bytes for task in index.tasks},
        "source": asdict(index.source),
    }
