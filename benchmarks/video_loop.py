"""A camera that never stops: sustained frames per second and latency, minute by minute, with a cut to another task at times.

    python -m benchmarks.video_loop BUNDLE [FOLDER] [--minutes 10] [--cut 5] [--way submit|stream|named] [--threads N]

FOLDER holds the frames, taken in order of their names; a cut jumps elsewhere. Without it a moving picture per task is made up.
Ways: "submit" routes every frame and decodes the next while one runs; "stream" keeps a route while the picture hardly moves;
"named" is told the task, another one at each cut. Frames are taken as fast as they are done; latency is from the moment a frame
is there to its labels, so with "submit" and "named" it holds the wait for the frame before.

Before it starts it pauses (`--cool-down`), so that what ran before costs it nothing. Whether the machine throttled is read
from the first and the last full minute, and from Linux's own clocks, thermometers and counters where there are any.

Needs `pip install ".[cpu]"` in a clone; torch is never imported.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mingle_edge_runtime import EdgeModel, Prediction

IN_FLIGHT = 2  # frames: one that runs, and one that is decoded meanwhile
SIDE = 256  # pixels of made-up frames
CPU = Path("/sys/devices/system/cpu")
Shots: TypeAlias = Callable[[int], Iterator[Any]]
"""frames of the shot of a number: paths, or arrays"""


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cut", type=float, default=5, help="seconds between two cuts")
    parser.add_argument("--way", choices=["submit", "stream", "named"], default="submit")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--expert-budget", metavar="SIZE", help="like 64MB")
    parser.add_argument("--cool-down", type=float, default=30, help="seconds")
    arguments = parser.parse_args()
    with EdgeModel.open(arguments.bundle, expert_budget=arguments.expert_budget, threads=arguments.threads) as model:
        shots = folder_shots(arguments.folder) if arguments.folder else made_up_shots(len(model.tasks))
        time.sleep(arguments.cool_down)
        run(model, shots, arguments.way, 60 * arguments.minutes, arguments.cut)


def run(model: EdgeModel, shots: Shots, way: str, seconds: float, cut: float) -> None:
    """Classify frames for `seconds`, with a new shot every `cut` seconds, and print a line per minute."""
    stream = model.stream(reuse=way == "stream" and model.bundle.index.scope == "image")
    print(f"{'minute':>6} {'frames':>7} {'per s':>7} {'p50 ms':>8} {'p99 ms':>8} {'MHz':>6} {'C':>5} {'cuts':>5} {'loaded':>9}")
    throttled, rates, everything = throttle_count(), list[float](), list[float]()
    minute, number, latencies, waiting = 0, 0, list[float](), deque[tuple[float, Future[list[Prediction]]]]()
    started = minute_started = time.perf_counter()
    frames, next_cut = shots(0), started + cut
    while (now := time.perf_counter()) < started + seconds:
        if now >= next_cut:
            number, next_cut = number + 1, now + cut
            frames = shots(number)
        if now >= minute_started + 60:
            rates.append(line(minute, latencies, now - minute_started, number, model))
            everything += latencies
            minute, minute_started, latencies = minute + 1, now, []
        frame = next(frames)
        arrived = time.perf_counter()
        if way == "stream":
            stream.classify(frame, top=1)
            latencies.append(time.perf_counter() - arrived)
        else:
            task = model.tasks[number % len(model.tasks)] if way == "named" else None
            waiting.append((arrived, model.submit(frame, task=task, top=1)))
            if len(waiting) == IN_FLIGHT:
                latencies.append(finished(*waiting.popleft()))
    latencies += [finished(*frame) for frame in waiting]
    rates.append(line(minute, latencies, time.perf_counter() - minute_started, number, model))
    everything += latencies
    rate = len(everything) / (time.perf_counter() - started)
    full = rates[: int(seconds // 60)] or rates
    after = throttle_count()
    print(
        f"all: {len(everything)} frames, {rate:.2f} per s, {percentiles(everything)} ms; "
        f"last full minute {full[-1] / full[0]:.3f} x the first; throttled "
        + ("unknown" if throttled is None or after is None else f"{after - throttled} times")
    )
    if way == "stream":
        print(f"route reuse: {stream.stats()}")


def finished(arrived: float, future: Future[list[Prediction]]) -> float:
    """Seconds from a frame's arrival to its labels."""
    future.result()
    return time.perf_counter() - arrived


def line(minute: int, latencies: list[float], seconds: float, cuts: int, model: EdgeModel) -> float:
    """Print what a minute was like; its frames per second."""
    rate = len(latencies) / seconds
    state = f"{megahertz():>6} {celsius():>5} {cuts:>5} {model.stats().bytes_loaded / 1e6:>6.0f} MB"
    print(f"{minute:>6} {len(latencies):>7} {rate:>7.2f} {percentiles(latencies)} {state}", flush=True)
    return rate


def percentiles(latencies: list[float]) -> str:
    """p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(latencies or [0], (50, 99)) * 1e3
    return f"{p50:>8.1f} {p99:>8.1f}"


def folder_shots(folder: Path) -> Shots:
    """Frames of a folder: shot n begins elsewhere than shot n - 1, and runs round and round."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in Image.registered_extensions())
    if not files:
        raise SystemExit(f"{folder} holds no images")

    def shot(number: int) -> Iterator[Path]:
        position = int(number * 0.618034 * len(files))
        while True:
            yield files[position % len(files)]
            position += 1

    return shot


def made_up_shots(tasks: int) -> Shots:
    """A smooth colored picture per task, under a camera that pans, with noise."""

    def shot(number: int) -> Iterator[NDArray[np.uint8]]:
        random = np.random.default_rng(number % tasks)
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        world = np.asarray(coarse.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC), np.int16)
        step = 0
        while True:
            x = round(SIDE / 2 * (1 + np.sin(step / 40)))
            view = world[SIDE // 2 : SIDE // 2 + SIDE, x : x + SIDE] + random.integers(-4, 5, (SIDE, SIDE, 1))
            yield view.clip(0, 255).astype(np.uint8)
            step += 1

    return shot


def megahertz() -> str:
    """Mean clock of the processor's cores now, "-" where the system does not tell."""
    clocks = numbers(CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    return f"{np.mean(clocks) / 1e3:.0f}" if clocks else "-"


def celsius() -> str:
    """The hottest thermometer now, "-" where there is none."""
    zones = numbers(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    return f"{max(zones) / 1e3:.0f}" if zones else "-"


def throttle_count() -> int | None:
    """How often cores have throttled since the machine started; None where the system does not count."""
    counts = numbers(CPU.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return sum(counts) if counts else None


def numbers(paths: Iterable[Path]) -> list[int]:
    """The integers in those files that can be read."""
    found = []
    for path in paths:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


if __name__ == "__main__":
    main()
