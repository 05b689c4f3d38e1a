"""Does a bundle of 200 tasks cost more than one of a few, where the same tasks are used? Open time, latency, memory.

    python benchmarks/many_tasks.py BUNDLE [--tasks 200] [--rounds 15] [--threads N] [--json FILE] [-o FOLDER]

BUNDLE is of the image scope and exported here. Two copies of it are written to FOLDER (a temporary one unless given), one as
it is and one with further tasks: heads, rows of the router that never win, and expert files of full size that hold nothing
(sparse, so they take no disk). Every image is claimed by a task in both, and routes must be equal. Opening and memory are
measured in processes of their own, in turn; latencies interleaved in one process. Ratios are of neighbours, many over few.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mingle_edge_export.bundle.image_scope import ROUTER_WEIGHTS
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.golden import read_golden
from mingle_edge_runtime.machine import machine_record
from mingle_edge_runtime.preprocess import preprocess

CLAIM_ALL = -1e30  # confidence bound
NEVER = -1e4  # score of a task that is not to win
CHILD = """
import json, sys, time
import numpy as np
import onnxruntime
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.memory import process_memory
path, threads, named = json.loads(sys.argv[1])
started = time.perf_counter()
model = EdgeModel.open(path, threads=threads)
seconds = time.perf_counter() - started
opened = process_memory()
side = model.bundle.index.preprocess.image_size
pixels = np.zeros((1, 3, side, side), np.float32)
for _ in range(5):
    model.scope.embed(pixels, model.tasks[0] if named else None)
steady = process_memory()
print(json.dumps({"open_s": seconds, "opened_bytes": opened.resident, "steady_bytes": steady.resident}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("-o", "--output", type=Path, help="keep the two bundles here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.bundle.resolve().parent) as temporary:
        folder = arguments.output or Path(temporary)
        few = json.loads((arguments.bundle / "bundle.json").read_text())
        bundles = {"few": folder / "few", "many": folder / "many"}
        for path, count in zip(bundles.values(), (len(few["tasks"]), arguments.tasks), strict=True):
            if not path.exists():
                grow(arguments.bundle, path, count)
        figures = in_processes(bundles, arguments.rounds, arguments.threads)
        figures |= latencies(bundles, arguments.rounds, arguments.threads)
    print(f"{len(few['tasks'])} -> {arguments.tasks} tasks")
    for name, found in figures.items():
        print(f"{name:<24} {found['few']:14.4f} {found['many']:14.4f}   {found['ratio']:.3f} x")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine_record(), "figures": figures}, indent=1) + "\n")


def grow(bundle: Path, target: Path, count: int) -> None:
    """Copy a bundle, with further tasks until there are `count`."""
    shutil.copytree(bundle, target)
    index = json.loads((target / "bundle.json").read_text())
    tasks = index["tasks"]
    before, last = len(tasks), tasks[-1]
    for i in range(before, count):
        name, head, expert = f"unused{i}", f"heads/unused{i}.npy", f"experts/unused{i}.onnx_adapter"
        shutil.copyfile(target / last["head"], target / head)
        with (target / expert).open("wb") as file:
            file.truncate(last["expert_bytes"])
        tasks.append(last | {"name": name, "head": head, "expert": expert})
        index["source"]["tasks"][name] = "0" * 64
        index["files"] |= {head: index["files"][last["head"]], expert: index["files"][last["expert"]]}
    index["router"]["confidence_bound"] = CLAIM_ALL
    router = index["router"]["file"]
    widen(target / router, before, count)
    for name in (router, ROUTER_WEIGHTS):
        index["files"][name]["size"] = (target / name).stat().st_size
    (target / "bundle.json").write_text(json.dumps(index))


def widen(path: Path, before: int, count: int) -> None:
    """Give the router further tasks: all its own numbers with an axis of one value per task."""
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        if tensor.external_data and tensor.external_data[0].value == ROUTER_WEIGHTS:  # the only one of that file, [F, T]
            weights = np.fromfile(path.with_name(ROUTER_WEIGHTS)).reshape(tensor.dims)
            wider = np.pad(weights, ((0, 0), (0, count - before)))
            wider.tofile(path.with_name(ROUTER_WEIGHTS))
            tensor.dims[1] = count
            next(entry for entry in tensor.external_data if entry.key == "length").value = str(wider.nbytes)
        numbers = tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) and not tensor.external_data
        if numbers and before in tensor.dims:
            values = numpy_helper.to_array(tensor)
            room = [(0, count - before if side == before else 0) for side in values.shape]
            wider = np.pad(values, room, constant_values=NEVER if values.ndim == 1 else 0)
            tensor.CopyFrom(numpy_helper.from_array(wider, tensor.name))
    for output in graph.graph.output:
        for dimension in output.type.tensor_type.shape.dim:
            if dimension.dim_value == before:
                dimension.dim_value = count
    onnx.save(graph, path)


def in_processes(bundles: dict[str, Path], rounds: int, threads: int | None) -> dict[str, dict[str, float]]:
    """Time to open and memory, in fresh processes."""
    found: dict[str, dict[str, list[float]]] = {}
    for i in range(rounds):
        for kind, path in bundles.items() if i % 2 else reversed(bundles.items()):
            for named in (True, False):
                asked = json.dumps([str(path), threads, named])
                run = subprocess.run([sys.executable, "-c", CHILD, asked], capture_output=True, text=True, check=True)
                for name, value in json.loads(run.stdout).items():
                    row = name if name != "steady_bytes" else f"steady_bytes, {'named' if named else 'routed'}"
                    found.setdefault(row, {"few": [], "many": []})[kind].append(value)
    return {name: ratio(values) for name, values in found.items()}


def latencies(bundles: dict[str, Path], rounds: int, threads: int | None) -> dict[str, dict[str, float]]:
    """Seconds of a run at batch 1, interleaved; routes are compared on the way."""
    models = {kind: EdgeModel.open(path, threads=threads) for kind, path in bundles.items()}
    few, many = models.values()
    pixels = preprocess(read_golden(few.bundle)["images"], few.bundle.index.preprocess)
    for one, other in zip(few.scope.route(pixels), many.scope.route(pixels), strict=True):
        if one.tasks != other.tasks or not one.tasks:
            sys.exit(f"routes differ: {one.tasks} with few tasks, {other.tasks} with many")
    found: dict[str, dict[str, list[float]]] = {}
    for i in range(4 * rounds):
        for row, task in (("run_s, named", few.tasks[0]), ("run_s, routed", None)):
            for kind, model in models.items() if i % 2 else reversed(models.items()):
                time.sleep(0.005)  # for the threads of the run before to fall asleep
                started = time.perf_counter()
                model.scope.embed(pixels[i % len(pixels)][None], task)
                if i >= 4:  # warm
                    found.setdefault(row, {"few": [], "many": []})[kind].append(time.perf_counter() - started)
    return {name: ratio(values) for name, values in found.items()}


def ratio(values: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and the median of the ratios of neighbours."""
    medians = {kind: float(np.median(found)) for kind, found in values.items()}
    return medians | {"ratio": float(np.median(np.divide(values["many"], values["few"])))}


if __name__ == "__main__":
    main()
