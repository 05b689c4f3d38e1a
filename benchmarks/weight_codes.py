"""How to store 8-bit weights: signed, signed with 7 bits, or unsigned; what each is worth in exactness, time and accuracy.

    python -m benchmarks.weight_codes [--demo demo-output] [--runs 300] [--json FILE]

First products of ViT-B/32's layers, one thread: the share of entries of random codes that differ from numpy's, and the time
over the same layer in fp32 on that thread's clock (medians of the ratios of neighboring runs, in brackets the quartiles). Then
accuracy, where `--demo` names the output of `mingle-edge demo`: each task's model, its expert folded into the weights, as
`onnxruntime.quantization.quantize_dynamic` stores it, against itself in fp32 on all labelled test images.

Run it on each kind of processor: the answer differs (docs/method.md, "Integers that are the same everywhere").
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import Compared, compare_in_turn, shown
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.graph.builder import Graph
from mingle_edge_runtime import Bundle
from mingle_edge_runtime.bundle.head import read_heads
from mingle_edge_runtime.images.decoding import decode, pictures
from mingle_edge_runtime.images.preprocess import stack, to_pixel_values
from mingle_edge_runtime.ort.machine import machine_record
from mingle_edge_runtime.ort.session import CPU, Session

SHAPES = ((50, 768, 768), (50, 768, 3072), (50, 3072, 768), (1, 768, 3072))  # rows, d_in, d_out


@dataclass(frozen=True)
class Storage:
    """One way to store codes."""

    kind: QuantType
    largest: int
    """magnitude of a code, less the zero point"""
    zero_point: int = 0


STORAGES = {
    "signed, 8 bits": Storage(QuantType.QInt8, 127),
    "signed, 7 bits": Storage(QuantType.QInt8, 64),
    "unsigned, 8 bits": Storage(QuantType.QUInt8, 127, 128),
}


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, demo=Path, runs=300).parse_args(options)
    figures: dict[str, Any] = {"products": {}, "accuracy": {}}
    print(machine_record()["cpu"])
    for shape in SHAPES:
        products = figures["products"][" x ".join(map(str, shape))] = time_products(shape, arguments.runs)
        for name, (wrong, compared) in products.items():
            print(f"{shape!s:<16} {name:<17} fp32's time {shown(compared)}, wrong entries {wrong:.1%}")
    if arguments.demo:
        for task, by_storage in measure_accuracy(arguments.demo):
            figures["accuracy"][task] = by_storage
            for name, (accuracy, same, cosine) in by_storage.items():
                print(f"{task:<10} {name:<17} accuracy {accuracy:.1f}, labels as in fp32 {same:.1%}, least cosine {cosine:.5f}")
    write_report(arguments.json, figures)


def time_products(shape: tuple[int, int, int], runs: int) -> dict[str, tuple[float, Compared]]:
    """Return by name the share of wrong entries, and times over fp32."""
    rows, d_in, d_out = shape
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, d_in)).astype(np.float32)
    codes = random.integers(0, 256, (rows, d_in)).astype(np.uint8)
    sessions = {"fp32": _float_layer(random.standard_normal((d_in, d_out)).astype(np.float32))}
    wrong = {}
    for name, storage in STORAGES.items():
        signed = random.integers(-storage.largest, storage.largest + 1, (d_in, d_out))
        sessions[name] = _integer_layer(signed, storage)
        product = _integer_product(signed, storage).run(None, {"codes": codes})[0]
        wrong[name] = float(np.mean(product != codes.astype(np.int64) @ signed))
    ways = {name: partial(session.run, None, {"x": x}) for name, session in sessions.items()}
    compared = compare_in_turn(ways, runs, clock=time.thread_time)
    return {name: (wrong[name], compared[name]) for name in STORAGES}


def measure_accuracy(demo: Path) -> Any:
    """Yield task and name -> accuracy in percent, share of labels that are fp32's, smallest cosine with fp32."""
    tasks = MergedModel.open(demo / "image").task_names
    with tempfile.TemporaryDirectory() as name:
        for task in tasks:
            folder = export_bundle(demo / "image", Path(name) / task, ExportOptions(fold=task)).path
            pixels, truth = _test_images(demo, folder, task)
            head = read_heads(Bundle.open(folder))[task].weight
            exact = _embed(folder / "tower.onnx", pixels)
            labels = (exact @ head.T).argmax(1)
            by_storage = {"fp32": (100 * float(np.mean(labels == truth)), 1.0, 1.0)}
            for storage_name, storage in STORAGES.items():
                embeds = _embed(_quantized(folder, storage), pixels)
                own = (embeds @ head.T).argmax(1)
                cosine = float((embeds * exact).sum(1).min())
                by_storage[storage_name] = (100 * float(np.mean(own == truth)), float(np.mean(own == labels)), cosine)
            yield task, by_storage


def _test_images(demo: Path, folder: Path, task: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read a task's test images; returns `pixel_values [n, 3, S, S]` and label numbers `[n]`."""
    index = Bundle.open(folder).index
    paths = sorted((demo / "images" / task / "test").glob("*/*.png"))
    values = [to_pixel_values(decode(image, name), index.preprocess, name) for name, image in pictures(paths)]
    return stack(values, index.preprocess), np.array([index.tasks[0].labels.index(path.parent.name) for path in paths])


def _quantized(folder: Path, storage: Storage) -> Path:
    """Write the folded tower as ONNX Runtime's quantizer stores it, the patch embedding as it is."""
    model = onnx.load(folder / "tower.onnx")
    whole, quantized = folder / "whole.onnx", folder / "quantized.onnx"
    onnx.save(model, whole)
    quantize_dynamic(
        whole,
        quantized,
        per_channel=True,
        reduce_range=storage.largest == 64,
        weight_type=storage.kind,
        # The quantizer turns Gemm into MatMul and renames it.
        nodes_to_exclude=[f"{node.name}_MatMul" for node in model.graph.node if node.name.startswith("patch_embedding/")],
        extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
    )
    return quantized


def _embed(graph: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    session = Session(graph, [CPU], threads=1, one_by_one=True)
    embeds: NDArray[np.float32] = session.run({"pixel_values": pixels})["image_embeds"]
    return embeds


def _float_layer(weight: NDArray[np.float32]) -> Any:
    graph = Graph("layer")
    return _session(graph, graph.op("MatMul", graph.input("x", ("rows", len(weight))), graph.constant(weight)))


def _integer_layer(signed: NDArray[np.int64], storage: Storage) -> Any:
    """Quantize activations, multiply, scale: the operators that ONNX Runtime fuses."""
    graph = Graph("layer")
    codes, scale, zero = graph.ops("DynamicQuantizeLinear", graph.input("x", ("rows", len(signed))), outputs=3)
    product = graph.op("Cast", _product(graph, codes, zero, signed, storage), to=TensorProto.FLOAT)
    scales = graph.op("Mul", scale, graph.constant(np.full(signed.shape[1], 0.01, np.float32)))
    return _session(graph, graph.op("Mul", product, scales))


def _integer_product(signed: NDArray[np.int64], storage: Storage) -> Any:
    graph = Graph("product")
    codes = graph.input("codes", ("rows", len(signed)), dtype=np.uint8)
    return _session(graph, _product(graph, codes, "", signed, storage), TensorProto.INT32)


def _product(graph: Graph, codes: str, zero: str, signed: NDArray[np.int64], storage: Storage) -> str:
    kind = np.uint8 if storage.zero_point else np.int8
    weight = graph.constant((signed + storage.zero_point).astype(kind))
    return graph.op("MatMulInteger", codes, weight, zero, graph.constant(np.array(storage.zero_point, kind)))


def _session(graph: Graph, output: str, kind: int = TensorProto.FLOAT) -> Any:
    """Open one layer on one thread."""
    graph.output("y", output, ("rows", "d_out"), kind)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.model().SerializeToString(), options, providers=[CPU])


if __name__ == "__main__":
    main()
