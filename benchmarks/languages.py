"""One bundle by every way to serve it without a server: milliseconds an image and memory, one thread each.

    python -m benchmarks.languages BUNDLE IMAGE [IMAGE ...] [--turns 3] [--rounds 5]

These are Python's runtime, plain ONNX Runtime, Node and headless Chromium; the bundle is of the image scope, with one expert a
route. Needs `make javascript`. The programs are started in turn. Each takes the files one by one, in rounds of which the first
is left out, from the file to the labels. Memory is a process's peak; in Chromium that of WebAssembly, where the model is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks import apart
from mingle_edge_runtime import EdgeModel

ROOT = Path(__file__).parents[1]
NODE = str(Path(sys.executable).with_name("node"))
Taken: TypeAlias = tuple[list[dict[str, float]], int]
"""milliseconds by part of every image, and bytes of memory"""
PARTS = ("decode", "preprocess", "route", "expert", "tower", "head")


def main(options: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(options)
    given = str(arguments.bundle.resolve()), [str(image.resolve()) for image in arguments.images], arguments.rounds
    programs: dict[str, Callable[..., Taken]] = {
        "Python": partial(apart.call, python),
        "plain ONNX Runtime": partial(apart.call, plain),
        "Node": node,
        "Chromium": chromium,
    }
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    memory = dict.fromkeys(programs, 0)
    for _ in range(arguments.turns):
        for name, program in programs.items():
            milliseconds, peak = program(*given)
            taken[name] += milliseconds
            memory[name] = max(memory[name], peak)
    for name, milliseconds in taken.items():
        print(json.dumps({"program": name, **medians(milliseconds), "mb": round(memory[name] / 1e6)}), flush=True)


def python(bundle: str, images: Sequence[str], rounds: int) -> Taken:
    """Return the figures of this package's runtime, which are of its process."""
    with EdgeModel.open(bundle, threads=1) as model:
        return timed(lambda image: model.classify([image]), images, rounds)


def plain(bundle: str, images: Sequence[str], rounds: int) -> Taken:
    """Return the figures of examples/onnxruntime_only.py, which are of its process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # ONNX Runtime takes a thread for each core that it may use
    classify = runpy.run_path(str(ROOT / "examples/onnxruntime_only.py"))["open_bundle"](Path(bundle))
    return timed(lambda image: classify(Path(image)), images, rounds)


def timed(classify: Callable[[str], object], images: Sequence[str], rounds: int) -> Taken:
    """Return what each image takes, and the peak of this process so far."""
    milliseconds = []
    for turn in range(rounds + 1):
        for image in images:
            began = time.perf_counter()
            classify(image)
            milliseconds += [{"classify": 1e3 * (time.perf_counter() - began)}] if turn else []
    return milliseconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def node(bundle: str, images: Sequence[str], rounds: int) -> Taken:
    """Return the figures of examples/node."""
    script = str(ROOT / "examples/node/classify.mjs")
    command = [NODE, script, "--threads", "1", "--json", bundle, *(rounds + 1) * list(images)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        lines = running.stdout.readlines() if running.stdout else []
        usage = os.wait4(running.pid, 0)[2]
    return [json.loads(line)["milliseconds"] for line in lines[len(images) :]], usage.ru_maxrss << 10


def chromium(bundle: str, images: Sequence[str], rounds: int) -> Taken:
    """Return the figures of examples/browser."""
    serve = [sys.executable, str(ROOT / "examples/browser/serve.py"), bundle, "--port", "0"]
    drive = [NODE, str(ROOT / "tests/examples/browser.mjs"), "measure"]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            found = re.match(r"http://localhost:\d+/", server.stdout.readline() if server.stdout else "")
            address = f"{found[0] if found else ''}browser/index.html"
            command, variables = [*drive, address, str(rounds), *images], os.environ | {"TMPDIR": folder}
            done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        finally:
            server.terminate()
    measured = json.loads(done.stdout)
    return measured["milliseconds"], measured["status"]["heapBytes"]


def medians(answers: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return median and minimum of the whole, and the median of each part where it was measured, in milliseconds."""
    parts = {part: [answer[part] for answer in answers if part in answer] for part in PARTS}
    whole = [sum(answer.values()) for answer in answers]
    return {
        "milliseconds": round(float(np.median(whole)), 1),
        "least": round(min(whole), 1),
        **{part: round(float(np.median(values)), 1) for part, values in parts.items() if values},
    }


if __name__ == "__main__":
    main()
