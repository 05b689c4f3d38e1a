"""What decoding in the background is worth: frames per second of `submit` against `classify` in a loop.

    python -m benchmarks.submit BUNDLE [--frames 60] [--rounds 5] [--size 1280x720] [--threads N] [--json FILE]

The frames are JPEG files of camera size, so that decoding takes a share of the time. Both ways take all frames in turn, one
task named, and are interleaved round by round; the ratio is of medians.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import compare_in_turn
from mingle_edge_runtime import EdgeModel, Prediction
from mingle_edge_runtime.images.preprocess import preprocess

IN_FLIGHT = 3  # frames submitted before the first result is waited for, as a live camera would


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, "bundle", frames=60, rounds=5, size="1280x720", threads=int)
    arguments = parser.parse_args(options)
    with tempfile.TemporaryDirectory() as folder, EdgeModel.open(arguments.bundle, threads=arguments.threads) as model:
        frames = write_frames(Path(folder), arguments.frames, *map(int, arguments.size.split("x")))
        ways: dict[str, Callable[[], list[Prediction]]] = {
            "classify": lambda: in_turn(model, frames),
            "submit": lambda: list(in_background(model, frames)),
        }
        assert ways["classify"]() == ways["submit"]()
        compared = compare_in_turn(ways, arguments.rounds, warm_up=0)
        started = time.perf_counter()
        preprocess(frames, model.bundle.index.preprocess)
        preparing = (time.perf_counter() - started) / len(frames)
    rates = {name: 1e3 * len(frames) / figure["median_ms"] for name, figure in compared.items()}
    figures = {
        "threads": arguments.threads,
        "frames_per_second": rates,
        "submit_over_classify": rates["submit"] / rates["classify"],
        "time_of_submit": compared["submit"],
        "preprocess_milliseconds": 1e3 * preparing,
    }
    write_report(arguments.json, figures, show=True)


def in_turn(model: EdgeModel, frames: list[Path]) -> list[Prediction]:
    """Classify frame by frame in this thread."""
    return [model.classify(frame, task=model.tasks[0])[0] for frame in frames]


def in_background(model: EdgeModel, frames: list[Path]) -> Iterator[Prediction]:
    """Classify frame by frame, `IN_FLIGHT` of them under way at a time."""
    waiting: deque[Future[list[Prediction]]] = deque()
    for frame in frames:
        waiting.append(model.submit(frame, task=model.tasks[0]))
        if len(waiting) == IN_FLIGHT:
            yield waiting.popleft().result()[0]
    yield from (future.result()[0] for future in waiting)


def write_frames(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Write smooth colored pictures with some noise, as JPEG files."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(random.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse, np.int16) + random.integers(-8, 9, (height, width, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


if __name__ == "__main__":
    main()
