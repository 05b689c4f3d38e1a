"""Every product of integers in a bundle, alone: a graph of `MatMulInteger` nodes, and what numpy makes of them.

Constant weights are multiplied as constants, which ONNX Runtime lays out when it loads the graph; codes of experts arrive as
inputs, as they do in a run. Both by activations that are random and as large as can be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mingle_edge_runtime.adapter import read_adapter
from mingle_edge_runtime.bundle import Bundle

Arrays = dict[str, NDArray[Any]]
ROWS = (1, 2, 50)
EXTREMES = ("random", "largest", "alternating")
ZERO_POINTS = tuple({"random": 128, "largest": 0, "alternating": 128}[kind] for kind in EXTREMES for _ in ROWS)
"""of the activations, run by run"""
OPSET, IR_VERSION = 17, 8


def integer_matrices(bundle: Bundle) -> tuple[Arrays, Arrays]:
    """Collect the int8 matrices `[d_in, d_out]` of a bundle: constant weights by name, and codes of experts by name."""
    index = bundle.index
    constants: Arrays = {}
    shapes: dict[str, list[Any]] = {}
    for file in filter(None, (index.tower, index.router.file if index.router else None)):
        graph = onnx.load(bundle.file(file)).graph
        inputs = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
        weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
        used = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
        constants |= {
            f"{Path(file).stem}/{name}": numpy_helper.to_array(weights[name]) for name in sorted(used & weights.keys())
        }
        optional = {tensor.name for tensor in graph.initializer} & inputs.keys()
        shapes |= {name: [dim.dim_value for dim in inputs[name]] for name in optional}
    codes: Arrays = {}
    for task in index.tasks:
        if task.expert is not None and index.expert_precision in ("int8", "int4"):
            expert = read_adapter(bundle.file(task.expert), task.expert_bytes, task.name, shapes)
            arrays = expert.arrays()
            codes |= {f"codes/{task.name}/{name}": array.copy() for name, array in arrays.items() if array.dtype == np.int8}
    return constants, codes | _page_bank(bundle)


def write_products(path: Path, constants: Mapping[str, NDArray[Any]], codes: Mapping[str, NDArray[Any]]) -> None:
    """Write the graph: inputs `activations/<d_in>`, `zero_point` and the codes; an int32 output for each matrix."""
    matrices = {**constants, **codes}
    nodes, outputs = [], []
    for name, matrix in matrices.items():
        factors = [f"activations/{len(matrix)}", name, "zero_point"]
        nodes.append(helper.make_node("MatMulInteger", factors, [f"products/{name}"]))
        outputs.append(helper.make_tensor_value_info(f"products/{name}", TensorProto.INT32, ["rows", matrix.shape[1]]))
    sizes = sorted({len(matrix) for matrix in matrices.values()})
    inputs = [helper.make_tensor_value_info("zero_point", TensorProto.UINT8, [])]
    inputs += [helper.make_tensor_value_info(f"activations/{d}", TensorProto.UINT8, ["rows", d]) for d in sizes]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT8, matrix.shape) for name, matrix in codes.items()]
    weights = [numpy_helper.from_array(np.ascontiguousarray(matrix), name) for name, matrix in constants.items()]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets), path)


def activations(sizes: set[int]) -> Arrays:
    """Make the activation codes of every run: `<run>/activations/<d_in> [rows, d_in]` of uint8."""
    random = np.random.default_rng(0)
    runs: Arrays = {}
    for run, (kind, rows) in enumerate((kind, rows) for kind in EXTREMES for rows in ROWS):
        for size in sorted(sizes):
            codes = random.integers(0, 256, (rows, size)) if kind == "random" else np.full((rows, size), 255)
            if kind == "alternating":
                codes[:, 1::2] = 0
            runs[f"{run}/activations/{size}"] = codes.astype(np.uint8)
    return runs


def expected_digests(matrices: Mapping[str, NDArray[Any]], runs: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Multiply in 64 bits: the sha256 of the int32 results of each output over all runs."""
    digests = {f"products/{name}": hashlib.sha256() for name in matrices}
    for name, matrix in matrices.items():
        for run, zero_point in enumerate(ZERO_POINTS):
            codes = runs[f"{run}/activations/{len(matrix)}"].astype(np.int64) - zero_point
            digests[f"products/{name}"].update((codes @ matrix.astype(np.int64)).astype("<i4").tobytes())
    return {name: digest.hexdigest() for name, digest in digests.items()}


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
