"""The same bundle in Python, under Node and in headless Chromium: milliseconds an image and memory, one thread each.

    python -m benchmarks.languages BUNDLE IMAGE [IMAGE ...] [--rounds 5]

Needs `make javascript`. Files are decoded, preprocessed, routed and classified one by one; a first round is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import apart
from mingle_edge_runtime import EdgeModel

ROOT = Path(__file__).parents[1]
NODE = str(Path(sys.executable).with_name("node"))
PARTS = ("decode", "preprocess", "route", "expert", "tower", "head")


def main(options: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(options)
    bundle, images = str(arguments.bundle.resolve()), [str(image.resolve()) for image in arguments.images]
    print(json.dumps(apart.call(python, bundle, images, arguments.rounds)), flush=True)
    print(json.dumps(node(bundle, images, arguments.rounds)), flush=True)
    print(json.dumps(chromium(bundle, images, arguments.rounds)), flush=True)


def python(bundle: str, images: Sequence[str], rounds: int) -> dict[str, Any]:
    """Return the figures of this package's runtime, which are of its process."""
    seconds = []
    with EdgeModel.open(bundle, threads=1) as model:
        for turn in range(rounds + 1):
            for image in images:
                began = time.perf_counter()
                model.classify([image])
                seconds += [time.perf_counter() - began] if turn else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {"program": "Python", **medians([{"classify": 1e3 * took} for took in seconds]), "peak_mb": round(peak / 1e6)}


def node(bundle: str, images: Sequence[str], rounds: int) -> dict[str, Any]:
    """Return the figures of examples/node."""
    script = str(ROOT / "examples/node/classify.mjs")
    command = [NODE, script, "--threads", "1", "--json", bundle, *(rounds + 1) * list(images)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        lines = running.stdout.readlines() if running.stdout else []
        usage = os.wait4(running.pid, 0)[2]
    answers = [json.loads(line)["milliseconds"] for line in lines]
    return {"program": "Node", **medians(answers[len(images) :]), "peak_mb": round((usage.ru_maxrss << 10) / 1e6)}


def chromium(bundle: str, images: Sequence[str], rounds: int) -> dict[str, Any]:
    """Return the figures of examples/browser; memory: of WebAssembly, in which the model is."""
    serve = [sys.executable, str(ROOT / "examples/browser/serve.py"), bundle, "--port", "0"]
    drive = [NODE, str(ROOT / "tests/examples/browser.mjs"), "measure"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            found = re.match(r"http://localhost:\d+/", server.stdout.readline() if server.stdout else "")
            address = f"{found[0] if found else ''}browser/index.html"
            variables = os.environ | {"TMPDIR": folder}
            done = subprocess.run(
                [*drive, address, str(rounds), *images], env=variables, capture_output=True, text=True, check=True
            )
        finally:
            server.terminate()
    measured = json.loads(done.stdout)
    heap = round(measured["status"]["heapBytes"] / 1e6)
    return {"program": "Chromium", **medians(measured["milliseconds"]), "webassembly_mb": heap}


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
