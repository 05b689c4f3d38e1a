"""Where the time of a run goes: ONNX Runtime's trace, summed by operator and by layer.

The exporter names nodes `<layer>/<Operator>_<n>`; what ONNX Runtime makes of several keeps such a beginning or has none.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.experts.adapter import read_adapter
from mingle_edge_runtime.ort.session import Session
from mingle_edge_runtime.profile.baselines import Setting, has_experts, with_expert
from mingle_edge_runtime.profile.interleaving import Run, interleave
from mingle_edge_runtime.profile.report import LayerTime, OperatorTime, Trace

Node: TypeAlias = Mapping[str, Any]
_KERNEL = "_kernel_time"
_WARM_UP = 2  # runs of each graph that are traced and left out
_MOST_RUNS = 30  # traces are long: about 900 bytes an operator and run
_NO_LAYER = "other"
_PIXELS = "pixel_values"
_NODE = re.compile(r"[A-Z]\w*_\d+")  # a node's own name, where the exporter gave it no layer


def trace_graphs(
    setting: Setting, pixels: NDArray[np.float32], runs: int, traces: dict[str, Trace], tick: Callable[[], None]
) -> None:
    """Trace the bundle's graphs at batch 1, run in turn, into `traces`: the tower with the first task's expert ("named"), the
    tower without experts ("dense"), and the router's stages where the bundle has one ("router pixels" and so on, on features of
    zeros); `runs` of each, 30 at most.

    tick: called after each of `traced_runs` runs.
    """
    graphs = _graphs(setting)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {name: setting.session(graph, trace=Path(folder) / name) for name, graph in graphs.items()}
        kinds = {name: _plain(session) for name, session in sessions.items()}
        kinds["named"] = _named(setting, sessions["named"])
        interleave(kinds, pixels, dict.fromkeys(kinds, 1), _rounds(runs), {}, tick)
        traces |= {name: read_trace(session.end_trace(), _WARM_UP) for name, session in sessions.items()}


def traced_runs(setting: Setting, runs: int) -> int:
    """Return the number of times that `trace_graphs` calls its `tick`."""
    return _rounds(runs) * len(_graphs(setting))


def _rounds(runs: int) -> int:
    return _WARM_UP + min(runs, _MOST_RUNS)


def _graphs(setting: Setting) -> dict[str, str]:
    index = setting.bundle.index
    stages = index.router.stages if index.router else ()
    return {"named": index.tower, "dense": index.dense} | {f"router {stage.name}": stage.file for stage in stages}


def _plain(session: Session) -> Run:
    """Return what runs a graph on images, where it reads them, and on features of zeros."""
    zeros = {name: np.zeros((1, *map(int, shape[1:])), np.float32) for name, shape in session.inputs.items()}
    if _PIXELS not in zeros:
        return lambda pixels, request: session.run(zeros)
    return lambda pixels, request: session.run(zeros | {_PIXELS: pixels})


def read_trace(path: Path, skip: int = 0) -> Trace:
    """Return the sums of a trace file, without its first `skip` runs; at least one run must be left."""
    runs = list(_runs(json.loads(path.read_text(encoding="utf-8"))))[skip:]
    nodes = [nodes for nodes, _ in runs]
    operators = _medians(nodes, _operator)
    counts = Counter(map(_operator, nodes[0]))
    return Trace(
        len(runs),
        float(np.median([whole for _, whole in runs])),
        float(np.median([sum(map(_seconds, run)) for run in nodes])),
        tuple(
            OperatorTime(name, counts[name], operators[name]) for name in sorted(operators, key=lambda name: -operators[name])
        ),
        tuple(LayerTime(name, seconds) for name, seconds in _medians(nodes, _layer).items()),
    )


def _named(setting: Setting, tower: Session) -> Run:
    """Return what runs the tower with the first task's expert."""
    index = setting.bundle.index
    if not has_experts(setting.bundle):
        return with_expert(tower, {})
    if index.scope == "image":
        expert = read_adapter(setting.bundle, index.tasks[0], tower.optional_inputs)
        return with_expert(tower, expert)
    mask = np.zeros(len(index.tasks), np.float32)
    mask[0] = 1
    return with_expert(tower, {"task_mask": mask, "top_k": np.array([1], np.int64)})


def _runs(events: Iterable[Node]) -> Iterable[tuple[list[Node], float]]:
    """Yield the operators of each run and the seconds of the whole run, which ONNX Runtime writes after them."""
    nodes: list[Node] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            nodes.append(event)
        elif event.get("name") == "model_run":
            yield nodes, event["dur"] / 1e6
            nodes = []


def _operator(node: Node) -> str:
    return str(node["args"]["op_name"])


def _layer(node: Node) -> str:
    layer, slash, _ = str(node["name"]).partition("/")
    return layer if layer and slash and not _NODE.fullmatch(layer) else _NO_LAYER


def _seconds(node: Node) -> float:
    return float(node["dur"]) / 1e6


def _medians(runs: list[list[Node]], group: Callable[[Node], str]) -> dict[str, float]:
    """Return the median over the runs of the seconds of each group, in the order of the first run."""
    sums: list[dict[str, float]] = [defaultdict(float) for _ in runs]
    for run, by_group in zip(runs, sums, strict=True):
        for node in run:
            by_group[group(node)] += _seconds(node)
    return {name: float(np.median([by_group.get(name, 0.0) for by_group in sums])) for name in sums[0]}
