"""Does a bundle of 200 tasks cost more than one of a few, where the same tasks are used? Open time, latency, memory.

    python -m benchmarks.many_tasks BUNDLE [--tasks 200] [--rounds 15] [--threads N] [--json FILE]

BUNDLE is of the image scope and exported here. Two copies of it are written to a temporary folder beside it, one as it is
and one with further tasks: heads, rows of the router that never win, and expert files of full size that hold nothing (sparse,
so they take no disk). Every image is claimed by a task in both, and routes must be equal. Opening and memory are measured in
processes of their own, in turn; latencies interleaved in one process. Ratios are of neighbors, many over few.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from benchmarks import apart
from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import Seconds, compare, time_in_turn
from benchmarks.memory_account import account
from mingle_edge_export.bundle.image_scope import ROUTER_WEIGHTS
from mingle_edge_export.tower.router import MASK
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.check.golden import read_golden
from mingle_edge_runtime.images.preprocess import preprocess

NEVER = -1e4  # score of a task that is not to win, and what the mask has for it
LOSES = 2.0  # expected of its expert
CHOICES = ("router.losses", "router.outside")  # have a column for each expert and one for the plain backbone


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, "bundle", tasks=200, rounds=15, threads=int).parse_args(options)
    few = json.loads((arguments.bundle / "bundle.json").read_text())
    with tempfile.TemporaryDirectory(dir=arguments.bundle.resolve().parent) as folder:
        bundles = {"few": Path(folder) / "few", "many": Path(folder) / "many"}
        for path, count in zip(bundles.values(), (len(few["tasks"]), arguments.tasks), strict=True):
            grow(arguments.bundle, path, count)
        figures = in_processes(bundles, arguments.rounds, arguments.threads)
        figures |= latencies(bundles, arguments.rounds, arguments.threads)
    print(f"{len(few['tasks'])} -> {arguments.tasks} tasks")
    for name, row in figures.items():
        print(f"{name:<24} {row['few']:14.4f} {row['many']:14.4f}   {row['ratio']:.3f} x")
    write_report(arguments.json, {"figures": figures})


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
    for stage in index["router"]["stages"]:
        widen(target / stage["file"], before, count)
        graph = (target / stage["file"]).read_bytes()
        index["files"][stage["file"]] = {"sha256": hashlib.sha256(graph).hexdigest(), "size": len(graph)}
    if judge := index["router"].get("judge"):
        for name in ("typical", "deviation"):
            judge[name] += [1.0] * (count - before)
    (target / "bundle.json").write_text(json.dumps(index))


def widen(path: Path, before: int, count: int) -> None:
    """Give the router further tasks, in all its own numbers with an axis of one value per task, which the graph holds then."""
    graph = onnx.load(path, load_external_data=False)
    own = own_numbers(graph)
    for tensor in graph.graph.initializer:
        if any(entry.value == ROUTER_WEIGHTS for entry in tensor.external_data):
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
        numbers = (
            tensor.name in own
            and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
            and not tensor.external_data
        )
        if numbers and before in tensor.dims:
            values = numpy_helper.to_array(tensor)
            if tensor.name in CHOICES:  # the plain backbone stays the last column
                values = np.insert(values, [before] * (count - before), LOSES, axis=1)
            room = [(0, count - before if side == before else 0) for side in values.shape]
            wider = np.pad(values, room, constant_values=NEVER if values.ndim == 1 else 0)
            tensor.CopyFrom(numpy_helper.from_array(wider, tensor.name))
    for output in graph.graph.output:
        for dimension in output.type.tensor_type.shape.dim:
            if dimension.dim_value in (before, before + 1):
                dimension.dim_value += count - before
    for value in graph.graph.input:
        if value.name == MASK:
            value.type.tensor_type.shape.dim[0].dim_value = count
    onnx.save(graph, path)


def own_numbers(graph: onnx.ModelProto) -> set[str]:
    """Return the names of what is read once features are weighed: before that, an axis may be as long for another reason."""
    reads = [list(node.input) for node in graph.graph.node]
    weighed = next(n for n, names in enumerate(reads) if any(name.endswith(".weight") and "router." in name for name in names))
    return {MASK, *(name for names in reads[weighed:] for name in names)}


def in_processes(bundles: dict[str, Path], rounds: int, threads: int | None) -> dict[str, dict[str, float]]:
    """Time to open and memory, in fresh processes."""
    values: dict[str, dict[str, list[float]]] = {}
    for i in range(rounds):
        for kind, path in bundles.items() if i % 2 else reversed(bundles.items()):
            for asked in ("named", "routed"):
                steps = apart.call(account, str(path.resolve()), asked, threads, None, str(bundles["few"].resolve()))
                opened, steady = (steps["account"][step]["resident"] for step in ("opened", "steady"))
                rows = {"open_s": steps["seconds"]["open"], "opened_bytes": opened, f"steady_bytes, {asked}": steady}
                for row, value in rows.items():
                    values.setdefault(row, {"few": [], "many": []})[kind].append(value)
    return {name: ratio(np.array(by_kind["few"]), np.array(by_kind["many"])) for name, by_kind in values.items()}


def latencies(bundles: dict[str, Path], rounds: int, threads: int | None) -> dict[str, dict[str, float]]:
    """Time runs at batch 1 in turn, after comparing routes."""
    few, many = (EdgeModel.open(path, threads=threads) for path in bundles.values())
    pixels = preprocess(read_golden(few.bundle)["images"], few.bundle.index.preprocess)
    for one, other in zip(few.scope.route(pixels), many.scope.route(pixels), strict=True):
        if one.tasks != other.tasks:
            sys.exit(f"routes differ: {one.tasks} with few tasks, {other.tasks} with many")
    figures = {}
    for row, task in (("run_s, named", few.tasks[0]), ("run_s, routed", None)):
        ways = {kind: partial(model.scope.embed, pixels[:1], task) for kind, model in (("few", few), ("many", many))}
        seconds = time_in_turn(ways, 4 * rounds, warm_up=4, pause=0.005)
        figures[row] = ratio(seconds["few"], seconds["many"])
    return figures


def ratio(few: Seconds, many: Seconds) -> dict[str, float]:
    """Return medians, and the median of the ratios of neighbors."""
    medians = {"few": float(np.median(few)), "many": float(np.median(many))}
    return medians | {"ratio": compare(many, few)["ratio"]}


if __name__ == "__main__":
    main()
