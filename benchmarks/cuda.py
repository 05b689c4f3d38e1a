"""A bundle on a provider that copies experts to its device, against the CPU provider: parity, latency, memory at budgets.

    python -m benchmarks.cuda BUNDLE [BUNDLE ...] [--provider cuda] [--runs 50] [--json FILE]

Name bundles of several precisions (fp32, fp16) to have them side by side. With `--provider cpu` it runs anywhere: the CPU is
then the device, and experts are copied and bound as on a GPU, which proves script and path before there is a GPU.

parity: the largest absolute difference and smallest cosine of embeddings (plain, every task named, routed), and the share of
equal routes. latency: milliseconds at batch 1, 8 and 32, interleaved, ratios to the dense tower on the same
provider; "adapter" is the CPU provider's own path, mapped files, and only there. memory: a process of its own per budget that
uses all experts in turn, twice; on a GPU what nvidia-smi says beyond what was in use before, so let nothing else run there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import apart
from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import compare, time_in_turn
from mingle_edge_runtime import Bundle, EdgeModel
from mingle_edge_runtime.check.golden import read_golden
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.memory import process_memory
from mingle_edge_runtime.ort.providers import resolve_providers
from mingle_edge_runtime.ort.session import CPU, Session
from mingle_edge_runtime.scopes.image_scope import ImageScope
from mingle_edge_runtime.scopes.opening import open_scope
from mingle_edge_runtime.scopes.scope import Scope

BATCHES = (1, 8, 32)
IMAGES = 32


def main(options: Sequence[str] | None = None) -> None:
    """Measure every bundle and print."""
    parser = make_parser(__doc__, provider="cuda", runs=50, threads=int)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    arguments = parser.parse_args(options)
    providers = resolve_providers([arguments.provider])
    figures: dict[str, Any] = {"provider": providers[0], "gpu": smi("name,driver_version")}
    for path in arguments.bundles:
        bundle = Bundle.open(path)
        figures[path.name] = {"precision": bundle.index.precision, "scope": bundle.index.scope}
        figures[path.name] |= measure(bundle, providers, arguments.runs, arguments.threads)
        figures[path.name]["memory"] = [apart.call(memory, str(path), providers, budget) for budget in budgets(bundle)]
    write_report(arguments.json, figures, show=True)


def on_device(bundle: Bundle, providers: list[str], budget: int | None = None, threads: int | None = None) -> Scope:
    """Open the bundle with its experts on the provider's device, the CPU provider's being the CPU itself."""
    if bundle.index.scope == "image" and providers[0] == CPU:
        return ImageScope(bundle, budget, providers, threads, device="cpu")
    return open_scope(bundle, budget, providers, threads)


def measure(bundle: Bundle, providers: list[str], runs: int, threads: int | None) -> dict[str, Any]:
    """Measure placement, parity and latency."""
    golden = read_golden(bundle)["images"]
    pixels = preprocess(golden[np.arange(IMAGES) % len(golden)], bundle.index.preprocess)
    pixels += np.float32(0.1) * np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
    device = on_device(bundle, providers, threads=threads)
    with EdgeModel.open(bundle.root, threads=threads) as host:
        figures = {"parity": parity(device, host, pixels)}
        tasks = cycle(bundle.index.task_names)
        dense = Session(bundle.graph(bundle.index.dense), providers, threads, one_by_one=bundle.index.one_by_one)
        ways: dict[str, Callable[[NDArray[np.float32]], object]] = {
            "dense": lambda values: dense.run({"pixel_values": values}),
            "named": lambda values: device.embed(values, next(tasks)),
            "routed": lambda values: device.embed(values),
        }
        if providers[0] == CPU:
            ways["adapter"] = lambda values: host.scope.embed(values, next(tasks))
        figures["latency"] = {f"batch {size}": latency(ways, pixels[:size], max(5, runs // size)) for size in BATCHES}
    return figures | {"placement": placement(device), "notes": device.experts.stats().notes}


def parity(device: Scope, host: EdgeModel, pixels: NDArray[np.float32]) -> dict[str, Any]:
    """Return differences between the device's embeddings and the CPU provider's."""
    pairs = {task: (device.embed(pixels, task)[0], host.scope.embed(pixels, task)[0]) for task in host.tasks}
    ours, theirs = device.embed(pixels), host.scope.embed(pixels)
    equal = [a.tasks == b.tasks for a, b in zip(ours[1], theirs[1], strict=True)]
    pairs["routed alike"] = (ours[0][equal], theirs[0][equal])
    runs = [scope.golden_runs(pixels).arrays for scope in (device, host.scope)]
    if "plain" in runs[0]:
        pairs["plain"] = (runs[0]["plain"], runs[1]["plain"])
    return {
        "max_abs": max(float(np.abs(a - b).max(initial=0)) for a, b in pairs.values()),
        "min_cosine": min(float((a * b).sum(1).min(initial=1)) for a, b in pairs.values()),
        "equal_routes": float(np.mean(equal)),
    }


def latency(ways: dict[str, Callable[[Any], object]], values: NDArray[np.float32], rounds: int) -> dict[str, Any]:
    """Return milliseconds and ratios to the dense tower, run by run in turn."""
    seconds = time_in_turn({name: partial(way, values) for name, way in ways.items()}, rounds, warm_up=3, pause=0.005)
    return {
        name: {**compare(times, seconds["dense"]), "p99_ms": 1e3 * float(np.percentile(times, 99))}
        for name, times in seconds.items()
    }


def placement(device: Scope) -> dict[str, dict[str, int]]:
    """Count the nodes of each graph by provider."""
    return {
        graph: {provider: sum(operators.values()) for provider, operators in providers.items()}
        for graph, providers in device.placement().items()
    }


def budgets(bundle: Bundle) -> list[int]:
    """Return bytes for the experts of one run, of half the tasks, and of all; the layer scope on a device knows only all."""
    sizes = sorted((task.expert_bytes for task in bundle.index.tasks), reverse=True)
    counts = {bundle.index.top_k, max(bundle.index.top_k, len(sizes) // 2), len(sizes)}
    return [sum(sizes)] if bundle.index.scope == "layer" else [sum(sizes[:count]) for count in sorted(counts)]


def memory(path: str, providers: list[str], budget: int) -> dict[str, Any]:
    """Use all experts in turn, twice; returns bytes on the device, or of this process on the CPU, and traffic."""
    bundle = Bundle.open(path)
    before = used_bytes(providers)
    scope = on_device(bundle, providers, budget)
    pixels = preprocess(read_golden(bundle)["images"][:1], bundle.index.preprocess)
    for task in (*bundle.index.task_names, *bundle.index.task_names):
        scope.embed(pixels, task)
    stats = scope.experts.stats()
    return {
        "budget": budget,
        "used_bytes": used_bytes(providers) - before,
        "resident_expert_bytes": stats.resident_bytes,
        "bytes_loaded": stats.bytes_loaded,
        "evictions": stats.evictions,
        "stall_milliseconds_per_miss": 1e3 * stats.stall_seconds / max(1, stats.misses),
        "notes": stats.notes,
    }


def used_bytes(providers: list[str]) -> int:
    """Return memory in use on the first GPU, or of this process."""
    used = smi("memory.used") if providers[0] != CPU else None
    return process_memory().resident if used is None else int(used.split()[0]) << 20


def smi(query: str) -> str | None:
    """Return what nvidia-smi says of the first GPU; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


if __name__ == "__main__":
    main()
