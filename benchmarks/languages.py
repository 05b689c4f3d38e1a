"""A bundle by every way to serve it without a server: milliseconds an image and memory, one thread each.

    python -m benchmarks.languages -o DIR [--model ViT-B-32] [--turns 4] [--rounds 5]

Writes two bundles of random weights to DIR, with three tasks of rank 64 in the image scope, one in int8 and one whose router
alone is in int8, and two photographs (scikit-learn's samples of 640 x 427); what is there already is kept.

The ways are Python's runtime, plain ONNX Runtime, Node and headless Chromium, started in turn. Each takes the files one by one,
in rounds of which the first is left out, from the file to the labels. Memory is a process's peak; in Chromium that of
WebAssembly, where the model is. Needs `make javascript`.
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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from benchmarks import apart
from benchmarks.architectures import MODELS
from mingle_edge_runtime import EdgeModel

ROOT = Path(__file__).parents[1]
NODE = str(Path(sys.executable).with_name("node"))
Taken: TypeAlias = tuple[list[dict[str, float]], int]
"""milliseconds by part of every image, and bytes of memory"""
LOOSE: dict[str, Any] = {"min_cosine": 0.0, "min_route_agreement": 0.0}
"""Random weights in int8 are farther from fp32 than trained ones, which an export would refuse."""
PARTS = ("decode", "preprocess", "route", "expert", "tower", "head")


def main(options: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="ViT-B-32")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(options)
    folder = arguments.output.resolve()
    sys.path.insert(0, str(ROOT / "tests"))
    images = photographs(folder)
    for bundle in bundles(folder, arguments.model):
        for figures in measure(str(bundle), images, arguments.turns, arguments.rounds):
            print(json.dumps({"bundle": bundle.name} | figures), flush=True)


def bundles(folder: Path, model: str) -> list[Path]:
    """Return the bundles in a folder, written where they are not there."""
    from mingle_edge_export import ExportOptions, export_bundle  # here, as programs are measured with what this module imports

    exports = {"int8": ExportOptions(precision="int8", **LOOSE), "fp32": ExportOptions(router_precision="int8", **LOOSE)}
    for name, export in exports.items():
        if not (folder / name).exists():
            from tiny_merged import write_merged  # of the tests

            if not (folder / "merged").exists():
                write_merged(folder / "merged", tasks=3, rank=64, architecture=MODELS[model])
            export_bundle(folder / "merged", folder / name, export)
    return [folder / name for name in exports]


def photographs(folder: Path) -> list[str]:
    """Return the paths of the photographs in a folder, written where they are not there."""
    from sklearn.datasets import load_sample_image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "china.jpg", folder / "flower.jpg"]
    for path in paths:
        if not path.exists():
            Image.fromarray(load_sample_image(path.name)).save(path, quality=90)
    return [str(path) for path in paths]


def measure(bundle: str, images: Sequence[str], turns: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Run every way in turn, and yield the figures of each."""
    programs: dict[str, Callable[..., Taken]] = {
        "Python": partial(apart.call, python),
        "plain ONNX Runtime": partial(apart.call, plain),
        "Node": node,
        "Chromium": chromium,
    }
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    memory = dict.fromkeys(programs, 0)
    for _ in range(turns):
        for name, program in programs.items():
            milliseconds, peak = program(bundle, images, rounds)
            taken[name] += milliseconds
            memory[name] = max(memory[name], peak)
    for name, milliseconds in taken.items():
        yield {"program": name, **medians(milliseconds), "mb": round(memory[name] / 1e6)}


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
