"""What a graph costs: scopes, precisions, and other ways to write the same, timed against the dense tower in fp32.

    python -m benchmarks.graph_variants [--model ViT-B-32] [--threads 1] [--batch 1] [--runs 30] [--only NAME ...] [--guard]

All graphs are of one random backbone with 8 tasks of rank 64. Runs are interleaved; a ratio is the median of the ratios of
neighboring runs to the exported dense tower, in brackets the quartiles. With one thread the clock is that thread's, so other
load disturbs it less. `--list` prints the names of all variants; those of PyTorch need as many threads as are asked for.

With `--guard`: have the graphs become slower? Exit code 1 where the lower quartile of a ratio is above its bound: noise makes
single runs slower, and rarely a quarter of them faster. Bounds are of ViT-B/32, a tenth above what docs/performance.md states,
in int8 for the kind of processor this is.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from benchmarks.architectures import MODELS, normal, random_backbone
from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import compare_in_turn, shown
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_export.bundle.adapters import write_adapter
from mingle_edge_export.graph.builder import MICROSOFT, WeightFile
from mingle_edge_export.tower.expert_inputs import ExpertInputs, expert_values
from mingle_edge_export.tower.page_bank import PageLayout, write_expert
from mingle_edge_export.tower.routed_experts import BLOCK_SCALES, LayerGates, RoutedExperts
from mingle_edge_export.tower.vision_tower import PIXELS, Backbone, Tokens, Tower, pixel_graph
from mingle_edge_runtime.bundle.index import Precision
from mingle_edge_runtime.experts.adapter import adapter_values
from mingle_edge_runtime.ort.machine import machine_record
from mingle_edge_runtime.ort.session import optional_inputs

TASKS, RANK = 8, 64
PAUSE = 0.02  # seconds, for idle threads of other variants to fall asleep
STEM = ("patch_embedding",)  # what the exporter leaves in fp32
PAIRS: tuple[tuple[Precision, Precision], ...] = (
    ("fp32", "fp32"),
    ("fp32", "fp16"),
    ("fp32", "int8"),
    ("int8", "int8"),
    ("int8", "fp32"),
    ("int4", "int4"),
)
BOUNDS = {
    "image fp32, no expert": 1.10,
    "image fp32, named": 1.27,
    "image fp32, named, q k v fc1": 1.19,
    "image fp32, experts fp16, named": 1.25,
    "image fp32, experts int8, named": 1.17,
    "image int8, named": 0.45,
    "layer fp32, top 1": 1.34,
    "layer fp32, experts int8, top 1": 1.23,
    "layer int8, top 1": 0.48,
    "dense int8": 0.38,
}
WITHOUT_VNNI = {"image int8, named": 0.75, "layer int8, top 1": 0.78, "dense int8": 0.58}
Run = Callable[[], Any]


class WholeLastBlock(Tower):
    """Computes all tokens of the last block, and then drops all but the class token."""

    def block(self, i: int, x: Tokens, class_token_from: Literal["q", "fc2"] | None = None) -> Tokens:
        """Add a block without the short cut."""
        x = super().block(i, x)
        return self._class_token(x, self.architecture.width) if class_token_from else x


class FusedAttention(Tower):
    """`com.microsoft.MultiHeadAttention` in place of eight standard nodes."""

    def _attention(self, q: Tokens, k: Tokens, v: Tokens) -> Tokens:
        graph, width = self.graph, self.architecture.width
        by_image = [graph.op("Reshape", x.value, graph.integers(-1, x.count, width)) for x in (q, k, v)]
        y = graph.op("MultiHeadAttention", *by_image, domain=MICROSOFT, num_heads=self.architecture.heads)
        return Tokens(graph.op("Reshape", y, graph.integers(-1, width)), q.count)


class MatMulAndAdd(Tower):
    """MatMul on tokens by image and Add of the bias, in place of one Gemm on all rows."""

    def linear(self, layers: Sequence[str], x: Tokens, tokens: Tokens | None = None) -> list[Tokens]:
        """Add some layers without experts."""
        outputs, parameters = [], self.backbone.parameters
        for layer in layers:
            d_out, d_in = self.architecture.linear_shape(layer)
            by_image = self.graph.op("Reshape", x.value, self.graph.integers(-1, x.count, d_in))
            weight = self.graph.weight(f"{layer}.weight", parameters[f"{layer}.weight"].T, self.backbone.file)
            y = self.graph.op("MatMul", by_image, weight)
            if f"{layer}.bias" in parameters:
                y = self.graph.op("Add", y, self.vector(f"{layer}.bias"))
            outputs.append(Tokens(self.graph.op("Reshape", y, self.graph.integers(-1, d_out)), x.count))
        return outputs


class ReduceMeanGates(RoutedExperts):
    """The mean token as one ReduceMean in place of a product with a constant row."""

    def token_mean(self, x: Tokens, width: int) -> str:
        """Add the mean over the tokens of each image, `[batch, 1, width]`."""
        by_image = self.graph.op("Reshape", x.value, self.graph.integers(-1, x.count, width))
        return self.graph.op("ReduceMean", by_image, axes=[1], keepdims=1)


def main(options: Sequence[str] | None = None) -> None:
    """Write the graphs, time them, print a table."""
    parser = make_parser(__doc__, threads=1, batch=1, runs=30)
    parser.add_argument("--model", default="ViT-B-32", choices=list(MODELS))
    parser.add_argument("--only", nargs="+", help="names of variants, beside the dense tower")
    parser.add_argument("--list", action="store_true", help="print the names of variants and stop")
    parser.add_argument("--guard", action="store_true", help="time the variants that have a bound")
    arguments = parser.parse_args(options)
    has_vnni = any("VNNI" in name for name in machine_record()["instruction_sets"] or ())
    bounds = (BOUNDS if has_vnni else BOUNDS | WITHOUT_VNNI) if arguments.guard else {}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), MODELS[arguments.model], arguments.batch, arguments.threads)
        variants = bench.variants()
        if arguments.list:
            print("\n".join(variants))
            return
        chosen = ["dense fp32", *(bounds or arguments.only or [name for name in variants if name != "dense fp32"])]
        clock = time.thread_time if arguments.threads == 1 else time.perf_counter
        runs = {variant: variants[variant]() for variant in chosen}
        figures = compare_in_turn(runs, arguments.runs, pause=PAUSE, clock=clock)
    for variant, figure in figures.items():
        bound = f"  at most {bounds[variant]}" if variant in bounds else ""
        print(f"{variant:<44} {figure['median_ms']:8.1f} ms  {shown(figure)}{bound}")
    asked = {key: value for key, value in vars(arguments).items() if key not in ("json", "list")}
    write_report(arguments.json, {"asked": asked, "variants": figures})
    if slower := [variant for variant, bound in bounds.items() if figures[variant]["quartiles"][0] > bound]:
        sys.exit(f"slower: {', '.join(slower)}")


@dataclass(frozen=True)
class Bench:
    """Random models of one architecture, and sessions of their graphs."""

    folder: Path
    architecture: VisionArchitecture
    batch: int
    threads: int

    def variants(self) -> dict[str, Callable[[], Run]]:
        """Return ways to open every variant, the exported dense tower first. Graphs are written when one of them is opened."""
        write, few = self._write, ("patch_embedding", "q", "k", "v", "fc1", "projection")
        opened: dict[str, Callable[[], Run]] = {"dense fp32": lambda: self._session(write("fp32", "fp32") / "dense.onnx")}
        dense = {"whole last block": WholeLastBlock, "fused attention": FusedAttention, "MatMul and Add": MatMulAndAdd}
        for name, tower in dense.items():
            opened[f"dense fp32, {name}"] = partial(self._other, tower.__name__, tower)
        for precision in ("fp16", "int8", "int4"):
            expert_precision: Precision = "int8" if precision == "int8" else precision
            opened[f"dense {precision}"] = partial(self._opened, precision, expert_precision, "dense.onnx")
        for pair in PAIRS:
            title = pair[0] if pair[0] == pair[1] else f"{pair[0]}, experts {pair[1]}"
            opened[f"image {title}, named"] = partial(self._named, *pair)
            opened[f"layer {title}, top 1"] = partial(self._opened, *pair, "bank.onnx")
        opened |= {
            "image fp32, no expert": partial(self._opened, "fp32", "fp32", "inputs.onnx"),
            "image fp32, named, q k v fc1": partial(self._named, "fp32", "fp32", few),
            "layer fp32, top 2": partial(self._opened, "fp32", "fp32", "bank.onnx", top_k=np.array([2])),
            f"layer fp32, all {TASKS}": partial(self._opened, "fp32", "fp32", "bank.onnx", top_k=np.array([TASKS])),
            "layer fp32, top 1, ReduceMean": self._reduce_mean,
            f"PyTorch, {TASKS} experts materialized": self._materialized,
        }
        return opened

    def _opened(self, precision: Precision, expert_precision: Precision, graph: str, **inputs: Any) -> Run:
        return self._session(self._write(precision, expert_precision) / graph, None, inputs)

    def _named(self, precision: Precision, expert_precision: Precision, kinds: Sequence[str] | None = None) -> Run:
        folder = self._write(precision, expert_precision, kinds)
        return self._session(folder / "inputs.onnx", folder / "expert")

    def _session(self, graph: Path, adapter: Path | None = None, inputs: dict[str, Any] | None = None) -> Run:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        side = self.architecture.image_size
        pixels = np.random.default_rng(1).standard_normal((self.batch, 3, side, side)).astype(np.float32)
        feeds = {PIXELS: pixels} | (inputs or {})
        call, loaded = onnxruntime.RunOptions(), onnxruntime.LoraAdapter()
        if adapter is not None:
            optional = optional_inputs(session)
            stored = onnxruntime.AdapterFormat.read_adapter(str(adapter)).get_parameters()
            if stored.keys() == optional.keys():
                loaded.Load(str(adapter))
                call.add_active_adapter(loaded)
            else:  # in 4 bits
                feeds |= adapter_values(np.fromfile(adapter, np.uint8), optional, {}, str(adapter))
        return lambda: (session.run(None, feeds, call), loaded)

    def _reduce_mean(self) -> Run:
        layout, gates = self._layout("fp32"), self._gates(np.random.default_rng(2))
        with (self._write("fp32", "fp32") / "reduce_mean_gates.bin").open("wb") as file:
            gate_file = WeightFile(file, "reduce_mean_gates.bin")
            return self._other("reduce_mean", ReduceMeanGates, layout, gates, gate_file, "experts.bin", 1)

    def _other(self, name: str, tower: type[Tower], *more: Any) -> Run:
        """Return a graph like the exporter's with another tower."""
        folder = self._write("fp32", "fp32")
        with (folder / f"{name}.bin").open("wb") as file:
            backbone = Backbone(self.architecture, random_backbone(self.architecture), WeightFile(file, f"{name}.bin"))
            tower(pixel_graph(name, self.architecture), backbone, *more).write(folder / f"{name}.onnx")
        return self._session(folder / f"{name}.onnx")

    def _materialized(self) -> Run:
        """Make the published form: every linear layer of a block forms `W + sum g B A` anew in every forward."""
        import torch

        torch.set_num_threads(self.threads)
        random = torch.Generator().manual_seed(0)
        a = self.architecture
        layers = []
        for layer in a.block_linears():
            d_out, d_in = a.linear_shape(layer)
            weight = torch.randn(d_out, d_in, generator=random) * 0.02
            A = torch.randn(TASKS, RANK, d_in, generator=random) * 0.02
            B = torch.randn(TASKS, d_out, RANK, generator=random) * 0.02
            layers.append((weight, A, B, torch.randn(self.batch, a.tokens, d_in, generator=random)))
        gates = torch.rand(TASKS, 1, 1, generator=random)

        @torch.inference_mode()
        def run() -> None:
            for weight, A, B, x in layers:
                torch.nn.functional.linear(x, weight + (gates * (B @ A)).sum(0))

        return run

    def _write(self, precision: Precision, expert_precision: Precision, kinds: Sequence[str] | None = None) -> Path:
        """Write a folder with all graphs of a pair of precisions; kinds: of layers with experts, all when None."""
        folder = self.folder / "-".join([precision, expert_precision, *(kinds or [])])
        if folder.exists():
            return folder
        folder.mkdir()
        a, backbone = self.architecture, random_backbone(self.architecture)
        random = np.random.default_rng(1)
        carrying = [layer for layer in a.linear_layers() if kinds is None or layer.rsplit(".", 1)[-1] in kinds]
        layout, scales = self._layout(expert_precision), []
        with (folder / "experts.bin").open("wb") as file:
            for _ in range(TASKS):
                expert = {f"{layer}.A": normal(random, RANK, a.linear_shape(layer)[1]) for layer in a.linear_layers()}
                expert |= {f"{layer}.B": normal(random, a.linear_shape(layer)[0], RANK) for layer in a.linear_layers()}
                scales.append(write_expert(file, layout, expert))
        blocks = [task.blocks for task in scales if task.blocks is not None]
        if blocks:
            (folder / f"{BLOCK_SCALES}.bin").write_bytes(np.concatenate(blocks).tobytes())
        rows = {layer: np.stack([task.rows[layer] for task in scales]) for layer in scales[0].rows}
        values = expert_values(a, expert, backbone, carrying, expert_precision)
        write_adapter(folder / "expert", values)
        with (folder / "backbone.bin").open("wb") as file:
            exact = STEM if precision in ("int8", "int4") else ()
            stored = Backbone(a, backbone, WeightFile(file, "backbone.bin"), precision, exact)
            Tower(pixel_graph("dense", a), stored).write(folder / "dense.onnx")
            ExpertInputs(pixel_graph("tower", a), stored, carrying, expert_precision).write(folder / "inputs.onnx")
            gates, scale_file = self._gates(np.random.default_rng(2), rows), f"{BLOCK_SCALES}.bin" if blocks else None
            with (folder / "gates.bin").open("wb") as gate_file:
                routing = (layout, gates, WeightFile(gate_file, "gates.bin"), "experts.bin", 1, scale_file)
                RoutedExperts(pixel_graph("tower", a), stored, *routing).write(folder / "bank.onnx")
        return folder

    def _layout(self, precision: Precision) -> PageLayout:
        return PageLayout.of(self.architecture, dict.fromkeys(self.architecture.block_linears(), RANK), precision)

    def _gates(self, random: np.random.Generator, rows: dict[str, np.ndarray] | None = None) -> dict[str, LayerGates]:
        ones = np.ones(TASKS, np.float32)
        return {
            layer: LayerGates(
                normal(random, self.architecture.linear_shape(layer)[1], TASKS),
                normal(random, TASKS),
                ones,
                (rows or {}).get(layer),
            )
            for layer in self.architecture.block_linears()
        }


if __name__ == "__main__":
    main()
