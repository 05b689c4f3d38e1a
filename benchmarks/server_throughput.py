"""What HTTP costs: images per second and latency of `mingle-edge serve` at 1, 4 and 16 clients, against `EdgeModel` alone.

    python -m benchmarks.server_throughput BUNDLE [--images 64] [--rounds 5] [--size 640x480] [--threads N] [--json FILE]

The images are JPEG files, one a request, routes not given. Each client has a connection of its own and sends its next request
when the last one is answered. The server is a process of its own, the clients are threads of this one; `EdgeModel` answers the
same files in a process without either, by `classify` in a loop and by `submit`. All ways take turns, round by round, and what
the server answers is compared with `EdgeModel`'s answers. On a busy machine, compare the processor time.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import apart
from benchmarks.command import make_parser, write_report
from benchmarks.submit import IN_FLIGHT, write_frames
from mingle_edge_runtime import EdgeModel

CLIENTS = (1, 4, 16)
NAME = "measured"
_ADDRESS = re.compile(r"serving on http://127\.0\.0\.1:(\d+)")


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, "bundle", images=64, rounds=5, size="640x480", threads=int)
    arguments = parser.parse_args(options)
    ways: list[str | int] = ["classify", "submit", *CLIENTS]
    rounds: dict[str | int, list[Round]] = {way: [] for way in ways}
    bundle = str(arguments.bundle.resolve())
    with tempfile.TemporaryDirectory() as folder, serving(bundle, arguments.threads) as port:
        paths = write_frames(Path(folder), arguments.images, *map(int, arguments.size.split("x")))
        files = [path.read_bytes() for path in paths]
        expected: list[list[float]] = []
        ask_all(port, 1, files[:4])  # what the first answers wait for
        for round_ in range(arguments.rounds):
            for way in ways[round_ % len(ways) :] + ways[: round_ % len(ways)]:
                if isinstance(way, int):
                    measured = ask_all(port, way, files)
                else:
                    measured = Round(*apart.call(run_alone, way, bundle, list(map(str, paths)), arguments.threads))
                expected = expected or measured.answers
                if measured.answers != expected:
                    sys.exit(f"{way}: the answers differ")
                rounds[way].append(measured)
    figures = {
        "threads": arguments.threads,
        "requests_of_each": arguments.rounds * arguments.images,
        "ways": {str(way): figures_of(rounds[way]) for way in ways},
        "answers_are_equal": True,
    }
    write_report(arguments.json, figures, show=True)


class Round(NamedTuple):
    """Every image answered once."""

    answers: list[list[float]]
    """probabilities of each image"""
    seconds: list[float]
    """of each image"""
    took: float
    """seconds of all images"""
    computed: float
    """seconds of processor time of the process with the model"""


def figures_of(rounds: Sequence[Round]) -> dict[str, float]:
    """Return medians of the rounds' images per second and processor time, and milliseconds of all requests."""
    images = len(rounds[0].seconds)
    median, worst = 1e3 * np.percentile([second for measured in rounds for second in measured.seconds], (50, 99))
    return {
        "images_per_second": round(float(np.median([images / measured.took for measured in rounds])), 2),
        "median_ms": round(float(median), 1),
        "p99_ms": round(float(worst), 1),
        "processor_ms_per_image": round(1e3 * float(np.median([measured.computed / images for measured in rounds])), 2),
    }


def run_alone(way: str, bundle: str, paths: list[str], threads: int | None) -> Round:
    """Answer every file by `EdgeModel` in this process."""
    with EdgeModel.open(bundle, threads=threads) as model:
        model.warm_up()
        model.classify(paths[:4])
        seconds = list[float]()
        answers = list[list[float]]()
        started, computed = time.perf_counter(), time.process_time()
        if way == "classify":
            for path in paths:
                begun = time.perf_counter()
                answers.append(list(model.classify(path)[0].probabilities))
                seconds.append(time.perf_counter() - begun)
        else:
            waiting = [(time.perf_counter(), model.submit(path)) for path in paths[:IN_FLIGHT]]
            for i in range(len(paths)):
                begun, future = waiting[i]
                answers.append(list(future.result()[0].probabilities))
                seconds.append(time.perf_counter() - begun)
                if len(waiting) < len(paths):
                    waiting.append((time.perf_counter(), model.submit(paths[len(waiting)])))
        return Round(answers, seconds, time.perf_counter() - started, time.process_time() - computed)


def ask_all(port: int, clients: int, files: Sequence[bytes]) -> Round:
    """Answer every file by so many clients of the server."""
    answers: list[list[float]] = [[] for _ in files]
    seconds = [0.0] * len(files)
    todo = iter(range(len(files)))

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        for i in todo:
            begun = time.perf_counter()
            answers[i] = ask(connection, files[i])
            seconds[i] = time.perf_counter() - begun
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started, computed = time.perf_counter(), processor_seconds(port)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Round(answers, seconds, time.perf_counter() - started, processor_seconds(port) - computed)


def processor_seconds(port: int) -> float:
    """Return the seconds that the server has computed since its start, as it tells Prometheus."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/metrics")
    found = re.search(r"^process_cpu_seconds_total (\S+)$", connection.getresponse().read().decode(), re.MULTILINE)
    connection.close()
    assert found is not None
    return float(found[1])


def ask(connection: HTTPConnection, file: bytes) -> list[float]:
    """Return the probabilities that the server answers for one image file."""
    content = struct.pack("<I", len(file)) + file
    parameters = {"binary_data_size": len(content)}
    record = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": parameters}]}
    header = json.dumps(record).encode()
    connection.request(
        "POST", f"/v2/models/{NAME}/infer", header + content, {"Inference-Header-Content-Length": str(len(header))}
    )
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 200:
        sys.exit(f"the server answers {response.status}: {answer['error']}")
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    probabilities: list[float] = outputs["probabilities"]
    return probabilities


@contextmanager
def serving(bundle: str, threads: int | None) -> Iterator[int]:
    """Serve a bundle in a process of its own; yields the port."""
    options = ["--port", "0", "--name", NAME, *(["--threads", str(threads)] if threads else [])]
    command = [sys.executable, "-c", "from mingle_edge.cli import main; main()", "serve", bundle, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = _ADDRESS.match(process.stdout.readline())
            if address is None:
                sys.exit("the server did not start")
            port = int(address[1])
            wait_until_ready(port)
            yield port
        finally:
            process.terminate()


def wait_until_ready(port: int) -> None:
    """Return once the server answers requests."""
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("GET", "/v2/health/ready")
        ready = connection.getresponse().status == 200
        connection.close()
        if ready:
            return
        time.sleep(0.05)


if __name__ == "__main__":
    main()
