"""What an expert of small rank costs beside its arithmetic: towers with one expert, timed against the dense tower in turn.

    python -m benchmarks.small_experts [--models ViT-B-32 ...] [--precision fp32] [--ranks 8 16 32] [--openings 8] [--rounds 10]
                                       [--batch 1] [--account 16]

Backbone and experts are random. A ratio is the median of the ratios of neighboring runs to the dense tower at the backbone's
own precision, in brackets the quartiles, on one thread and by that thread's clock. Where in memory a session's weights lie
moves its ratio by 0.01, so all sessions are opened several times, with some rounds each. "Arithmetic" is the multiply-adds of
the linear layers with an expert over those without; rank 0 is the tower without any expert. `--account` also traces runs with
an expert of that rank, and says what it adds to the dense tower's milliseconds: its own operators by name, what the dense
tower's operators take more (copies that were not needed, fusions lost), and the time between operators.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime

from benchmarks.architectures import MODELS, normal, random_backbone
from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import Compared, Seconds, compare, shown, time_in_turn
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_export.bundle.adapters import write_adapter
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.tower.expert_inputs import ExpertInputs, expert_values
from mingle_edge_export.tower.vision_tower import PIXELS, Backbone, Tower, pixel_graph
from mingle_edge_runtime.bundle.index import Precision
from mingle_edge_runtime.ort.machine import machine_record
from mingle_edge_runtime.ort.session import CPU, Session

DENSE = "dense"
EXPERTS: tuple[Precision, ...] = ("fp32", "int8")
WARM_UP = 2  # traced runs that do not count
PRODUCTS = ("Gemm", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")  # what linear layers become
OF_EXPERTS, BETWEEN = "expert ", "between operators"
Run = Callable[[], object]


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, openings=8, rounds=10, batch=1, account=int)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32"], choices=list(MODELS))
    parser.add_argument("--precision", default="fp32", choices=get_args(Precision), help="of the backbone [default: fp32]")
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 16, 32])
    arguments = parser.parse_args(options)
    machine, models = machine_record(), {}
    vnni = any("VNNI" in name for name in machine["instruction_sets"] or ())
    print(f"{machine['cpu']}, {'with' if vnni else 'without'} VNNI, 1 thread, onnxruntime {onnxruntime.__version__}")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            towers = Towers(Path(folder), MODELS[model], arguments.precision, arguments.batch)
            towers.write()
            figures = towers.compare([0, *arguments.ranks], arguments.openings, arguments.rounds)
            arithmetic = {rank: towers.arithmetic(rank) for rank in [0, *arguments.ranks]}
            print(f"\n{model}, {arguments.precision}, dense {figures[DENSE]['median_ms']:.1f} ms\n")
            print(table(figures, arithmetic), flush=True)
            models[model] = {"ratios": figures, "arithmetic": arithmetic}
            if arguments.account is not None:
                accounts = towers.account(arguments.account, arguments.openings * arguments.rounds)
                print(f"\n{model}, rank {arguments.account}: milliseconds beside the dense tower's\n")
                print(account_table(accounts), flush=True)
                models[model]["account"] = accounts
    asked = {key: value for key, value in vars(arguments).items() if key not in ("json", "models")}
    write_report(arguments.json, {"asked": asked, "models": models})


@dataclass(frozen=True)
class Towers:
    """The graphs of one random backbone, dense and with experts of each precision, in a folder."""

    folder: Path
    architecture: VisionArchitecture
    precision: Precision
    batch: int

    def write(self) -> None:
        """Write the graphs and the backbone that they share."""
        a = self.architecture
        with (self.folder / "backbone.bin").open("wb") as file:
            exact = ("patch_embedding",) if self.precision in ("int8", "int4") else ()  # as the exporter does
            backbone = Backbone(a, random_backbone(a), WeightFile(file, "backbone.bin"), self.precision, exact)
            Tower(pixel_graph(DENSE, a), backbone).write(self._graph(DENSE))
            for kind in EXPERTS:
                ExpertInputs(pixel_graph("tower", a), backbone, a.linear_layers(), kind).write(self._graph(kind))

    def arithmetic(self, rank: int) -> float:
        """Return the multiply-adds of the linear layers with an expert over those without."""
        shapes = {layer: self.architecture.linear_shape(layer) for layer in self.architecture.linear_layers()}
        return 1 + sum(rank * (o + i) for o, i in shapes.values()) / sum(o * i for o, i in shapes.values())

    def compare(self, ranks: Sequence[int], openings: int, rounds: int) -> dict[str, Compared]:
        """Return the figures of each tower against the dense one, which is the first, then `<precision> <rank>`."""
        every: dict[str, list[Seconds]] = defaultdict(list)
        for _ in range(openings):
            sessions = {name: Session(self._graph(name), [CPU], 1) for name in (DENSE, *EXPERTS)}
            runs = {DENSE: self._run(sessions[DENSE])}
            runs |= {f"{kind} {rank}": self._run(sessions[kind], kind, rank) for kind in EXPERTS for rank in ranks}
            for name, seconds in time_in_turn(runs, rounds, clock=time.thread_time).items():
                every[name].append(seconds)
        times = {name: np.concatenate(parts) for name, parts in every.items()}
        return {name: compare(seconds, times[DENSE]) for name, seconds in times.items()}

    def account(self, rank: int, rounds: int) -> dict[str, dict[str, float]]:
        """Return by precision what an expert of this rank adds to the dense tower, in milliseconds by its cause."""
        sessions = {name: Session(self._graph(name), [CPU], 1, trace=self.folder / name) for name in (DENSE, *EXPERTS)}
        runs = {name: self._run(sessions[name], name, rank) for name in sessions}
        for _ in range(WARM_UP + rounds):
            for run in runs.values():
                run()
        times = {name: _times(session.end_trace()) for name, session in sessions.items()}
        arithmetic = (self.arithmetic(rank) - 1) * sum(times[DENSE].get(name, 0.0) for name in PRODUCTS)
        return {kind: {"arithmetic": arithmetic, **added(times[kind], times[DENSE])} for kind in EXPERTS}

    def _run(self, session: Session, kind: str = DENSE, rank: int = 0) -> Run:
        side, random = self.architecture.image_size, np.random.default_rng(1)
        inputs: dict[str, Any] = {PIXELS: random.standard_normal((self.batch, 3, side, side)).astype(np.float32)}
        if kind == DENSE or not rank:
            return lambda: session.run(inputs)
        path, adapter = self.folder / f"{kind}-{rank}.onnx_adapter", onnxruntime.LoraAdapter()
        if not path.exists():
            write_adapter(path, self._expert(kind, rank))
        adapter.Load(str(path))
        return lambda: session.run(inputs, lambda: adapter)

    def _expert(self, kind: str, rank: int) -> dict[str, Any]:
        a, random, layers = self.architecture, np.random.default_rng(2), self.architecture.linear_layers()
        factors = {f"{layer}.A": normal(random, rank, a.linear_shape(layer)[1]) for layer in layers}
        factors |= {f"{layer}.B": normal(random, a.linear_shape(layer)[0], rank) for layer in layers}
        return expert_values(a, factors, {}, layers, "int8" if kind == "int8" else "fp32")

    def _graph(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"


def added(times: Mapping[str, float], dense: Mapping[str, float]) -> dict[str, float]:
    """Return what a traced tower takes more than the dense one, in milliseconds.

    By the name of each operator of experts; then their sum; "other operators": what the dense tower's own take more; and
    "between operators": the rest of a run, which tracing itself makes longer.
    """
    own = {name: times[name] for name in sorted(times, key=lambda name: -times[name]) if name.startswith(OF_EXPERTS)}
    others = sum(time for name, time in times.items() if name not in own and name != BETWEEN)
    return {
        **own,
        "all of experts": sum(own.values()),
        "other operators": others - sum(time for name, time in dense.items() if name != BETWEEN),
        BETWEEN: times[BETWEEN] - dense[BETWEEN],
    }


def _times(trace: Path) -> dict[str, float]:
    """Return the milliseconds of all nodes of each operator, those of experts apart, and between operators.

    Of every node the lower quartile over the runs: a trace has the clock on the wall, which other work on the machine moves.
    """
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    of_run = 0.0
    for event in json.loads(trace.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            of_expert = OF_EXPERTS if ".expert/" in event["name"] else ""
            nodes[of_expert + event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
            of_run += event["dur"] / 1e3
        elif event.get("name") == "model_run":  # ends its operators
            nodes[BETWEEN, ""].append(event["dur"] / 1e3 - of_run)
            of_run = 0.0
    times: dict[str, float] = defaultdict(float)
    for (name, _), of_node in nodes.items():
        times[name] += float(np.percentile(of_node[WARM_UP:], 25))
    return times


def table(figures: dict[str, Compared], arithmetic: dict[int, float]) -> str:
    """Return a Markdown table, one row for each rank."""
    lines = [f"| rank | arithmetic | {' | '.join(f'experts {kind}' for kind in EXPERTS)} |", "| --- | --- | --- | --- |"]
    for rank, bound in arithmetic.items():
        lines.append(f"| {rank} | {bound:.3f} | {' | '.join(shown(figures[f'{kind} {rank}']) for kind in EXPERTS)} |")
    return "\n".join(lines)


def account_table(accounts: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table, one column for each precision of experts."""
    lines = [f"| | {' | '.join(accounts)} |", "| --- | --- | --- |"]
    for name in dict.fromkeys(name for account in accounts.values() for name in account):
        cells = (f"{account[name]:.2f}" if name in account else "-" for account in accounts.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
