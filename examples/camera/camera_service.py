"""A camera service: takes frames, answers the newest, one line of JSON a frame on standard output, and tells how it is doing.

    python examples/camera/camera_service.py BUNDLE FRAMES/
    ffmpeg -loglevel error -i /dev/video0 -f mjpeg - | python examples/camera/camera_service.py BUNDLE - --metrics 9100
    python examples/camera/camera_service.py BUNDLE 0             # a camera by its number, where OpenCV is installed

Where the model is slower than the camera, frames in between are dropped; with `--every-frame` the source waits instead. SIGTERM
and Ctrl-C finish the frame in hand and print a summary on standard error. Needs what a device needs for `mingle_edge_runtime`;
torch is never imported.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from typing import Any

from frames import SourceError, open_source
from metrics import Metrics, serve
from newest_frame import Frame, NewestFrame

from mingle_edge_runtime import EdgeError, EdgeModel, ImageError


def main() -> None:
    """Read the arguments and run until the source ends or a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="folder that `mingle-edge export` wrote")
    parser.add_argument("source", help="folder of images; - for MJPEG on standard input; else a camera for OpenCV")
    parser.add_argument("--task", help="use this task's expert and labels; the router is skipped")
    parser.add_argument("--reject-below", type=float, metavar="P", help="no label where the best has a smaller probability")
    parser.add_argument("--every-frame", action="store_true", help="drop none: the source waits")
    parser.add_argument("--reuse-routes", action="store_true", help="keep a route while the picture hardly moves")
    parser.add_argument("--fps", type=float, default=10, help="of a folder (default: 10)")
    parser.add_argument("--loop", action="store_true", help="begin a folder again at its end")
    parser.add_argument("--expert-budget", metavar="SIZE", help="like 64MB")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--metrics", type=int, metavar="PORT", help="serve /metrics and /healthz at this port; 0: a free one")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="whoever reaches this address can read the metrics")
    arguments = parser.parse_args()
    if arguments.fps <= 0:
        parser.error("--fps must be positive")
    try:
        run(arguments)
    except (EdgeError, SourceError, OSError) as error:
        sys.exit(f"error: {error}")


def run(arguments: argparse.Namespace) -> None:
    """Open the bundle and the source, and answer frames. Raises `EdgeError`, `SourceError`, `OSError`."""
    source = open_source(arguments.source, arguments.fps, arguments.loop)
    metrics = Metrics()
    with EdgeModel.open(arguments.bundle, expert_budget=arguments.expert_budget, threads=arguments.threads) as model:
        model.warm_up([arguments.task] if arguments.task else [])
        frames = NewestFrame(source, arguments.every_frame)
        for number in (signal.SIGINT, signal.SIGTERM):  # the frame in hand is finished; a second signal ends at once
            signal.signal(number, lambda number, _: stop(frames, number))
        if arguments.metrics is not None:
            server = serve(lambda: metrics.text(*counted(model, frames)), arguments.metrics_host, arguments.metrics)
            print(f"metrics: http://{arguments.metrics_host}:{server.server_port}/metrics", file=sys.stderr, flush=True)
        stream = model.stream(reuse=arguments.reuse_routes)
        while (frame := frames.take()) is not None:
            answer(model, stream, frame, arguments, metrics)
        print(summary(metrics, *counted(model, frames)), file=sys.stderr, flush=True)


def stop(frames: NewestFrame, number: int) -> None:
    """Take no more frames, from a thread: the one that the signal interrupts may hold the lock."""
    signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=frames.stop).start()


def answer(model: EdgeModel, stream: Any, frame: Frame, arguments: argparse.Namespace, metrics: Metrics) -> None:
    """Classify one frame and print what came out; a broken one is told and counted."""
    began = time.monotonic()
    try:
        if arguments.task:
            prediction = model.classify([frame.image], arguments.task, top=1, reject_below=arguments.reject_below)[0]
        else:
            prediction = stream.classify(frame.image, top=1, reject_below=arguments.reject_below)
    except ImageError as error:
        metrics.add_broken()
        print(f"frame {frame.number} was left out: {error}", file=sys.stderr, flush=True)
        return
    ended = time.monotonic()
    metrics.add(ended - frame.captured, prediction.route.tasks)
    line = {
        "frame": frame.number,
        "label": prediction.label,
        "task": prediction.task,
        "probability": round(prediction.probability, 4),
        "route": list(prediction.route.tasks),
        "milliseconds": round(1000 * (ended - began), 1),
        "age_milliseconds": round(1000 * (ended - frame.captured), 1),
    }
    print(json.dumps(line), flush=True)


def counted(model: EdgeModel, frames: NewestFrame) -> tuple[int, int, int, int, int]:
    """Return what `Metrics.text` asks for."""
    stats = model.stats()
    return frames.captured, frames.dropped, stats.resident_bytes, stats.hits, stats.misses


def summary(metrics: Metrics, captured: int, dropped: int, resident_bytes: int, hits: int, misses: int) -> str:
    """Return a line for people."""
    milliseconds = ", ".join(f"p{100 * q:.0f} {1000 * seconds:.1f} ms" for q, seconds in metrics.quantiles().items())
    times = f"from capture to answer {milliseconds}; " if metrics.answered else ""
    return (
        f"{captured} frames: {metrics.answered} answered, {dropped} dropped, {metrics.broken} broken; "
        f"{times}experts {resident_bytes / 1e6:.1f} MB in memory, {hits} hits, {misses} misses"
    )


if __name__ == "__main__":
    main()
