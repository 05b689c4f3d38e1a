"""Ways to write the same graphs, timed against each other: why the exporter builds what it builds.

    python benchmarks/graph_variants.py [--model ViT-B-32] [--threads 1] [--batch 1] [--runs 30] [--json FILE]

All graphs are of one random backbone with 8 tasks of rank 64. Runs are interleaved; a ratio is the median of the ratios of
neighbouring runs to the exported dense tower. With one thread the clock is that thread's, so other load disturbs it less.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnx import helper

from mingle_edge.architecture import VisionArchitecture
from mingle_edge_export.adapters import write_adapter
from mingle_edge_export.bundle_graphs import EMBEDS, PIXELS, GraphWriter
from mingle_edge_export.expert_inputs import expert_values
from mingle_edge_export.graph import Graph, WeightFile
from mingle_edge_export.page_bank import PageLayout, write_expert
from mingle_edge_export.routed_experts import LayerGates, RoutedExperts
from mingle_edge_export.tower import PlainLayers, Tower
from mingle_edge_runtime.machine import machine_record

TASKS, RANK = 8, 64
MODELS = {
    "ViT-B-32": VisionArchitecture(224, 32, 768, 12, 12, 3072, 512, "quick_gelu"),
    "ViT-B-16": VisionArchitecture(224, 16, 768, 12, 12, 3072, 512, "quick_gelu"),
    "ViT-L-14": VisionArchitecture(224, 14, 1024, 24, 16, 4096, 768, "quick_gelu"),
}
Run = Callable[[], Any]


class WholeLastBlock(Tower):
    """Computes all tokens of the last block, and then drops all but the class token."""

    def block(self, i: int, x: str, class_token_from: Literal["q", "fc2"] | None = None) -> str:
        """A block without the short cut."""
        x = super().block(i, x)
        return self._class_token(x) if class_token_from else x


class FusedAttention(Tower):
    """`com.microsoft.MultiHeadAttention` in place of eight standard nodes."""

    def _attention(self, q: str, k: str, v: str) -> str:
        return self._graph.op("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=self._architecture.heads)


class GemmLayers(PlainLayers):
    """Gemm on flattened tokens, with the bias inside, in place of MatMul and Add."""

    def linear(self, layers: Sequence[str], x: str, tokens: str | None = None) -> list[str]:
        """Outputs of some layers without experts."""
        outputs = []
        for layer in layers:
            d_out, d_in = self.architecture.linear_shape(layer)
            rows = self.graph.op("Reshape", x, self.graph.integers(-1, d_in))
            weight = self.graph.weight(f"{layer}.weight", self.backbone[f"{layer}.weight"].T, self.file)
            bias = [self.vector(f"{layer}.bias")] if f"{layer}.bias" in self.backbone else []
            y = self.graph.op("Gemm", rows, weight, *bias)
            shape = self.graph.op("Concat", self.graph.op("Shape", x, start=0, end=2), self.graph.integers(d_out), axis=0)
            outputs.append(self.graph.op("Reshape", y, shape))
        return outputs


class ReduceMeanGates(RoutedExperts):
    """The mean token as one ReduceMean in place of a product with a constant row."""

    def token_mean(self, x: str) -> str:
        """`[batch, 1, d]`"""
        return self.graph.op("ReduceMean", x, axes=[1], keepdims=1)


def main() -> None:
    """Write the graphs, time them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32", choices=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--only", nargs="+", help="names of variants, beside the dense tower")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = open_variants(Path(name), MODELS[arguments.model], arguments.batch, arguments.threads, arguments.only)
        figures = measure(runs, arguments.runs, time.thread_time if arguments.threads == 1 else time.perf_counter)
    for variant, figure in figures.items():
        print(f"{variant:<44} {figure['median_ms']:8.1f} ms  {figure['ratio_to_dense']:.3f} x")
    if arguments.json:
        asked = {key: value for key, value in vars(arguments).items() if key != "json"}
        arguments.json.write_text(json.dumps({"asked": asked, "machine": machine_record(), "variants": figures}, indent=1))


def measure(runs: dict[str, Run], count: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Median milliseconds, and median ratio to the first; interleaved."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, run in runs.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    dense = np.array(next(iter(seconds.values())))
    return {
        name: {"median_ms": 1000 * float(np.median(times)), "ratio_to_dense": float(np.median(np.array(times) / dense))}
        for name, times in seconds.items()
    }


def open_variants(
    folder: Path, architecture: VisionArchitecture, batch: int, threads: int, only: list[str] | None
) -> dict[str, Run]:
    """Every variant ready to run, the exported dense tower first."""
    write_graphs(folder, architecture)
    pixels = np.random.default_rng(1).standard_normal((batch, 3, architecture.image_size, architecture.image_size))
    feeds: dict[str, Any] = {PIXELS: pixels.astype(np.float32)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads

    def runner(graph: str, adapter: str | None = None, **inputs: Any) -> Run:
        session = onnxruntime.InferenceSession(folder / f"{graph}.onnx", options, providers=["CPUExecutionProvider"])
        call = onnxruntime.RunOptions()
        loaded = onnxruntime.LoraAdapter()
        if adapter:
            loaded.Load(str(folder / adapter))
            call.add_active_adapter(loaded)
        return lambda: (session.run(None, feeds | inputs, call), loaded)

    variants: dict[str, Callable[[], Run]] = {
        "dense": lambda: runner("dense"),
        "dense, whole last block": lambda: runner("whole"),
        "dense, fused attention": lambda: runner("fused"),
        "dense, Gemm": lambda: runner("gemm"),
        "image scope, no expert": lambda: runner("inputs"),
        "image scope, one expert": lambda: runner("inputs", "expert"),
        "image scope, one expert with learned gates": lambda: runner("gated", "gated_expert"),
        "layer scope, top 1": lambda: runner("bank"),
        "layer scope, top 1, ReduceMean": lambda: runner("reduce_mean"),
        "layer scope, top 2": lambda: runner("bank", top_k=np.array([2])),
        "layer scope, all 8": lambda: runner("bank", top_k=np.array([TASKS])),
    }
    return {name: open_one() for name, open_one in variants.items() if only is None or name in ("dense", *only)}


def write_graphs(folder: Path, architecture: VisionArchitecture) -> None:
    """All graphs, their weights and experts, of random numbers."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)

    backbone = {
        name: normal(*shape) + np.float32(len(shape) == 1 and name.endswith("weight"))
        for name, shape in architecture.parameter_shapes().items()
    }
    shapes = {layer: architecture.linear_shape(layer) for layer in architecture.linear_layers()}
    gated = architecture.block_linears()
    layout = PageLayout.of(architecture, dict.fromkeys(gated, RANK))
    gates = {layer: LayerGates(normal(shapes[layer][1], TASKS), normal(TASKS), np.ones(TASKS, np.float32)) for layer in gated}
    with (folder / "experts.bin").open("wb") as file:
        for _ in range(TASKS):
            expert = {f"{layer}.A": normal(RANK, d_in) for layer, (_, d_in) in shapes.items()}
            expert |= {f"{layer}.B": normal(d_out, RANK) for layer, (d_out, _) in shapes.items()}
            write_expert(file, layout, expert)
    write_adapter(folder / "expert", expert_values(architecture, backbone, expert, {}, list(shapes)))
    write_adapter(folder / "gated_expert", expert_values(architecture, backbone, expert, {}, list(shapes), gated))
    with (folder / "backbone.bin").open("wb") as file:
        weights = WeightFile(file, "backbone.bin")
        writer = GraphWriter(architecture, backbone, weights)
        writer.dense(folder / "dense.onnx")
        writer.tower_with_inputs(folder / "inputs.onnx", list(shapes))
        writer.tower_with_inputs(folder / "gated.onnx", list(shapes), gated)
        writer.tower_with_bank(folder / "bank.onnx", layout, gates, "experts.bin", 1)
        plain = (architecture, backbone, weights)
        save(folder / "whole.onnx", plain, PlainLayers, WholeLastBlock)
        save(folder / "fused.onnx", plain, PlainLayers, FusedAttention)
        save(folder / "gemm.onnx", plain, GemmLayers, Tower)
        save(folder / "reduce_mean.onnx", (*plain, layout, gates, "experts.bin", 1), ReduceMeanGates, Tower)


def save(path: Path, parameters: tuple[Any, ...], layers: type[PlainLayers], tower: type[Tower]) -> None:
    """A variant: like the exporter, but with other ways to build layers or tower, and free to use fused operators."""
    graph = Graph(path.stem)
    size = parameters[0].image_size
    graph.input(PIXELS, ["batch", 3, size, size])
    graph.output(EMBEDS, tower(layers(graph, *parameters)).embeddings(PIXELS), ["batch", parameters[0].output_dim])
    model = graph.model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
