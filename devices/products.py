"""Every product of integers in a bundle, alone, and what numpy makes of it.

Each matrix is multiplied twice: by a `MatMulInteger` that stands alone, and as a bundle does, by activations that are quantized
in the run, which ONNX Runtime fuses into other kernels (`DynamicQuantizeMatMul`, `MatMulIntegerToFloat`). Constant weights are
multiplied as constants, which ONNX Runtime lays out when it loads the graph; codes of experts arrive as inputs, as they do in a
run. All by activations that are random and as large as can be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mingle_edge_export.graph.builder import Graph, WeightFile
from mingle_edge_export.precision.weight_precision import WeightPrecision
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.experts.adapter import read_adapter
from mingle_edge_runtime.ort.session import OptionalInput

Arrays = dict[str, NDArray[Any]]
ROWS = (1, 2, 50)
EXTREMES = ("random", "largest", "alternating")
ZERO_POINTS = tuple({"random": 128, "largest": 0, "alternating": 128}[kind] for kind in EXTREMES for _ in ROWS)
"""of the activations, run by run"""
WEIGHTS = "products.bin"


def integer_matrices(bundle: Bundle) -> tuple[Arrays, Arrays]:
    """Collect the int8 matrices `[d_in, d_out]` of a bundle: constant weights by name, and codes of experts by name."""
    index = bundle.index
    constants: Arrays = {}
    optional: dict[str, OptionalInput] = {}
    for file in (index.tower, *(stage.file for stage in (index.router.stages if index.router else ()))):
        graph = onnx.load(bundle.file(file)).graph
        inputs = {value.name: value.type.tensor_type for value in graph.input}
        weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
        used = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
        constants |= {
            f"{Path(file).stem}/{name}": numpy_helper.to_array(weights[name]) for name in sorted(used & weights.keys())
        }
        optional |= {
            tensor.name: OptionalInput(
                tuple(side.dim_param or side.dim_value for side in inputs[tensor.name].shape.dim),
                helper.tensor_dtype_to_np_dtype(inputs[tensor.name].elem_type),
            )
            for tensor in graph.initializer
            if tensor.name in inputs
        }
    codes: Arrays = {}
    for task in index.tasks:
        if task.expert is not None and task.precision in ("int8", "int4"):
            arrays = read_adapter(bundle, task, optional)
            codes |= {f"codes/{task.name}/{name}": array.copy() for name, array in arrays.items() if array.dtype == np.int8}
    return constants, codes | _page_bank(bundle)


def write_products(path: Path, constants: Mapping[str, NDArray[Any]], codes: Mapping[str, NDArray[Any]]) -> None:
    """Write the graph: inputs `activations/<d_in>`, `zero_point` and the codes; two outputs for each matrix.

    `products/<name>` is int32, `fused/<name>` the same integers in float32.
    """
    matrices = {**constants, **codes}
    graph = Graph("products")
    with open(path.parent / WEIGHTS, "wb") as file:
        weights = WeightFile(file, WEIGHTS)
        zero_point = graph.input("zero_point", [], dtype=np.uint8)
        sizes = sorted({len(matrix) for matrix in matrices.values()})
        activations = {size: graph.input(f"activations/{size}", ["rows", size], dtype=np.uint8) for size in sizes}
        values = {size: _values(graph, activations[size], zero_point) for size in sizes}
        for name, matrix in constants.items():
            graph.weight(name, matrix, weights)
        for name, matrix in codes.items():
            graph.input(name, matrix.shape, dtype=np.int8)
        precision = WeightPrecision(graph, weights, "int8")
        for i, (name, matrix) in enumerate(matrices.items()):
            d_in, d_out = matrix.shape
            product = graph.op("MatMulInteger", activations[d_in], name, zero_point)
            graph.output(f"products/{name}", product, ["rows", d_out], TensorProto.INT32)
            # What several products read is quantized for all of them and takes another kernel, and ONNX Runtime joins equal
            # values: a power of two of its own keeps each product alone, and changes no code.
            unit = np.array(2.0 ** (i % 100 - 50), np.float32)
            scaled = graph.op("Mul", values[d_in], graph.constant(unit))
            fused = precision.integer_product(scaled, name, graph.constant(np.full(d_out, 1 / unit, np.float32)))
            graph.output(f"fused/{name}", fused, ["rows", d_out])
    graph.save(path)


def _values(graph: Graph, codes: str, zero_point: str) -> str:
    """Subtract the zero point: numbers whose quantization gives the codes back, since they span 255."""
    return graph.op("Sub", *(graph.op("Cast", value, to=TensorProto.FLOAT) for value in (codes, zero_point)))


def activations(sizes: Iterable[int]) -> Arrays:
    """Make the activation codes of every run: `<run>/activations/<d_in> [rows, d_in]` of uint8.

    Those of the first row span all codes. Those of other random rows span fewer, so that a kernel that quantizes each row by
    itself is seen.
    """
    random = np.random.default_rng(0)
    runs: Arrays = {}
    for run, (kind, rows) in enumerate((kind, rows) for kind in EXTREMES for rows in ROWS):
        for size in sorted(sizes):
            codes = np.full((rows, size), 255)
            if kind == "random":
                spans = 127 // (1 + np.arange(rows)[:, None] % 4)
                codes = random.integers(128 - spans, 129 + spans, (rows, size))
                codes[0, :2] = 0, 255
            elif kind == "alternating":
                codes[:, 1::2] = 0
            runs[f"{run}/activations/{size}"] = codes.astype(np.uint8)
    return runs


def expected_digests(matrices: Mapping[str, NDArray[Any]], runs: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Multiply in 64 bits: the sha256 of the results of each output over all runs, as int32."""
    digests: dict[str, str] = {}
    for name, matrix in matrices.items():
        digest = hashlib.sha256()
        for run, zero_point in enumerate(ZERO_POINTS):
            codes = runs[f"{run}/activations/{len(matrix)}"].astype(np.int64) - zero_point
            digest.update((codes @ matrix.astype(np.int64)).astype("<i4").tobytes())
        digests |= {f"products/{name}": digest.hexdigest(), f"fused/{name}": digest.hexdigest()}
    return digests


def _page_bank(bundle: Bundle) -> Arrays:
    """The codes of the layer scope's experts, each layer's pages as a matrix `[64, n]`: the graph gathers them in every run."""
    layout = bundle.index.page_bank
    if layout is None or layout.dtype != "int8":
        return {}
    bank = np.fromfile(bundle.file(layout.file), np.int8).reshape(len(bundle.index.tasks), layout.pages_per_task, layout.page)
    return {
        f"codes/{task}/{layer.name}": pages[layer.first_page : layer.first_page + layer.pages].reshape(64, -1)
        for task, pages in zip(bundle.index.task_names, bank, strict=True)
        for layer in layout.layers
    }
