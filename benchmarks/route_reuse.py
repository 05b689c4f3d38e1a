"""What reusing a route on a stream saves, and how often it is wrong.

    mingle-edge demo -o DEMO
    python -m benchmarks.route_reuse DEMO/image-bundle [--frames 1000] [--streams 4] [--latency BUNDLE] [--timed 200]

Streams are shots of the demonstration's pictures under a moving camera: pan, zoom, brightness, sensor noise, cuts to another
task every 20 to 80 frames, a quarter of them dissolves. Every frame is also routed by itself, so that the error rate is
complete: frames that ran with another route than their own. The threshold is chosen on the tuning streams (the largest with
an error of at most 0.5% of all frames) and reported on others, of other pictures and, for digits, other scans.

`--latency` times frames of such a stream on a bundle, best one of full size: each is told its route, finds it, and runs with
the route of a stream that reuses, interleaved; a stream's figure is the medians of reused and of routed frames by their shares.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import time_in_turn
from mingle_edge.demo.canvas import photograph
from mingle_edge.demo.digits import draw_handwritten, handwritten_digits
from mingle_edge.demo.tasks import TASKS, ImageTask
from mingle_edge_runtime import EdgeModel, Route, StreamStats
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.scopes.route_reuse import AUDIT_EVERY, THRESHOLD, RouteReuse, cell_means

Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.float32]
WARM_UP = 2  # frames
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
ALLOWED = 0.005  # share of all frames of the tuning streams that may run with a route that is not their own
WORLD, VIEW = 256, 128  # pixels of a scene's side, and of a frame's
SCANS = {"tuning": slice(35, None), "report": slice(0, 30)}  # of each digit
DISSOLVE = 10  # frames


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, "bundle", frames=1000, streams=4, latency=Path, timed=200, threads=1)
    arguments = parser.parse_args(options)
    figures: dict[str, Any] = {}
    if arguments.latency:
        figures["latency"] = latency(arguments.latency, arguments.timed, arguments.threads)
    with EdgeModel.open(arguments.bundle, threads=1) as model:
        for number, purpose in enumerate(SCANS):
            seeds = range(number * arguments.streams, (number + 1) * arguments.streams)
            figures[purpose] = error_rates(model, purpose, seeds, arguments.frames)
    allowed = [row["threshold"] for row in figures["tuning"] if row["error"] <= ALLOWED]
    figures["chosen"], figures["default"] = max(allowed, default=0), THRESHOLD
    write_report(arguments.json, figures, show=True)


def replay(pixels: Pixels, routes: list[Route], threshold: float) -> tuple[list[tuple[str, ...]], StreamStats]:
    """Return the tasks each frame of a stream runs with, where frame i would be routed by `routes[i]`."""
    frame = 0
    reuse = RouteReuse(lambda values: routes[frame], threshold, AUDIT_EVERY)
    tasks = []
    for frame in range(len(routes)):
        tasks.append(reuse.route(pixels[frame : frame + 1]).tasks)
    return tasks, reuse.stats()


def error_rates(model: EdgeModel, purpose: str, seeds: range, count: int) -> list[dict[str, float]]:
    """Return one row per threshold, over all streams together."""
    totals = {threshold: np.zeros(5) for threshold in THRESHOLDS}
    right = 0
    for seed in seeds:
        frames, owners = video(purpose, seed, count)
        pixels = preprocess(frames, model.bundle.index.preprocess)
        routes = [route for start in range(0, count, 50) for route in model.scope.route(pixels[start : start + 50])]
        right += sum(route.tasks[:1] == (owner,) for route, owner in zip(routes, owners, strict=True))
        for threshold in THRESHOLDS:
            tasks, stats = replay(pixels, routes, threshold)
            wrong = sum(chosen != route.tasks for chosen, route in zip(tasks, routes, strict=True))
            owned = sum(chosen[:1] == (owner,) for chosen, owner in zip(tasks, owners, strict=True))
            totals[threshold] += (wrong, stats.reused, stats.audited, stats.disagreed, owned)
    frames_in_all = len(seeds) * count
    return [
        {
            "threshold": threshold,
            "reused": total[1] / frames_in_all,
            "error": total[0] / frames_in_all,
            "error_of_reused": total[0] / max(1, total[1]),
            "audited_disagreement": total[3] / max(1, total[2]),
            "own_task": total[4] / frames_in_all,
            "own_task_always_routed": right / frames_in_all,
        }
        for threshold, total in totals.items()
    ]


def latency(path: Path, count: int, threads: int) -> dict[str, object]:
    """Time of a frame that is told its own route, that finds it, and with reuse at the default threshold."""
    frames, _ = video("report", 1000, count)
    with EdgeModel.open(path, threads=threads) as model:
        model.prefetch(model.tasks)
        rows = [preprocess([frame], model.bundle.index.preprocess) for frame in frames]
        scope = model.scope.routed
        if scope is None:
            raise SystemExit(f"{path} has no router: name a bundle of the image scope")
        asked: list[bool] = []  # per frame of the stream, whether it was routed

        def find(values: Pixels) -> Route:
            asked[-1] = True
            return scope.route(values)[0]

        def run_stream(values: Pixels) -> None:
            asked.append(False)
            scope.embed_routed(values, [reuse.route(values)])

        reuse = RouteReuse(find, THRESHOLD, AUDIT_EVERY)
        known = {id(row): scope.route(row)[0] for row in rows}
        ways: dict[str, Callable[[Pixels], object]] = {
            "named": lambda values: scope.embed_routed(values, [known[id(values)]]),
            "routed": scope.embed,
            "reuse": run_stream,
        }
        seconds = time_in_turn({name: each_in_turn(way, rows) for name, way in ways.items()}, count - WARM_UP, warm_up=WARM_UP)
        del asked[:WARM_UP]
        stats = reuse.stats()
        signal = min(timed(cell_means, rows[0][0]) for _ in range(200))
    named, routed = np.median(seconds["named"]), np.median(seconds["routed"])
    reused = np.median([second for second, routed_itself in zip(seconds["reuse"], asked, strict=True) if not routed_itself])
    share = np.mean(asked)
    return {
        "milliseconds": {"named": 1e3 * named, "routed": 1e3 * routed, "reused": 1e3 * reused},
        "routed_over_named": routed / named,
        "reused_over_named": reused / named,
        "stream_over_named": ((1 - share) * reused + share * (routed + signal)) / named,
        "stream_over_named_by_sums": sum(seconds["reuse"]) / sum(seconds["named"]),
        "signal_milliseconds": 1e3 * signal,
        "routed_share": share,
        "audited_share": stats.audited / stats.frames,
        "threads": threads,
    }


def each_in_turn(way: Callable[[Pixels], object], rows: Sequence[Pixels]) -> Callable[[], object]:
    """Return a function that passes the next row with each call."""
    following = iter(rows)
    return lambda: way(next(following))


def timed(call: Callable[..., object], *arguments: object) -> float:
    """Time one call, in seconds."""
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def video(purpose: str, seed: int, count: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Draw frames `[count, VIEW, VIEW, 3]`; returns them and the task of each."""
    random = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    scans = [own[SCANS[purpose]] for own in handwritten_digits(np.random.default_rng(0))]
    frames: list[Floats] = []
    owners: list[str] = []
    while len(frames) < count:
        task = TASKS[random.integers(len(TASKS))]
        length = int(random.integers(20, 81))
        new: list[Floats] = list(shot(random, scene(random, task, scans), length))
        if frames and random.uniform() < 0.25:
            last = frames[-1]
            new[:DISSOLVE] = [last + (frame - last) * (i + 1) / (DISSOLVE + 1) for i, frame in enumerate(new[:DISSOLVE])]
        frames += new
        owners += [task.name] * length
    return np.stack(frames[:count]).round().clip(0, 255).astype(np.uint8), owners[:count]


def scene(random: np.random.Generator, task: ImageTask, scans: list[Floats]) -> Image.Image:
    """Return a picture of the task, large enough for a camera to move over."""
    number = int(random.integers(len(task.classes)))
    if task.draw is None:
        drawn = draw_handwritten(random, scans[number][random.integers(len(scans[number]))])
    else:
        drawn = task.draw(random, task.classes[number])
    return Image.fromarray(photograph(random, drawn)).resize((WORLD, WORLD), Image.Resampling.BICUBIC)


def shot(random: np.random.Generator, world: Image.Image, length: int) -> Iterator[Pixels]:
    """Yield the frames of one camera movement; in three of ten shots the camera stands still but for the hand that holds it."""
    moves = random.uniform() < 0.7
    zoom, start, stop = random.uniform(0.75, 1, 2), random.uniform(-0.5, 0.5, 2), random.uniform(-0.5, 0.5, 2)
    if not moves:
        zoom[1], stop = zoom[0], start
    sway, phase, speed = 0.25 * random.uniform() * moves, random.uniform(0, 2 * np.pi), random.uniform(0.02, 0.15)
    for i in range(length):
        done = i / max(1, length - 1)
        side = WORLD * (zoom[0] + (zoom[1] - zoom[0]) * done)
        center = WORLD / 2 + (start + (stop - start) * done) * (WORLD - side) + random.normal(0, 0.3, 2)
        box = np.concatenate([center - side / 2, center + side / 2]).clip(0, WORLD)
        view = np.asarray(world.resize((VIEW, VIEW), Image.Resampling.BILINEAR, tuple(box.tolist())), np.float32)
        yield view * np.float32(1 + sway * np.sin(phase + speed * i)) + random.normal(0, 3, view.shape).astype(np.float32)


if __name__ == "__main__":
    main()
