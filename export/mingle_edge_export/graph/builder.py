"""A thin builder over `onnx.helper`: nodes by operator name, and initializers that live in a file shared by several graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]
Dims = Sequence[int | str]
"""Sizes of a tensor's axes; a string names an axis whose size only a run knows."""

OPSET = 17
IR_VERSION = 8
MICROSOFT = "com.microsoft"  # operators that ONNX Runtime alone has; used where the standard has none
ALIGNMENT = 4096  # bytes; offsets of external data are multiples, so that a runtime can map them


class WeightFile:
    """External data being written: every named tensor once, however many graphs use it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Append to `file`, which is empty; graphs find it beside them under `name`."""
        self.name = name
        self._file = file
        self._end = 0
        self._tensors: dict[str, tuple[int, tuple[int, ...]]] = {}

    def add(self, tensor: str, value: NDArray[Any]) -> int:
        """Write a tensor unless one of that name is there already, and return its offset in bytes."""
        if tensor not in self._tensors:
            offset = -(-self._end // ALIGNMENT) * ALIGNMENT
            self._file.write(bytes(offset - self._end))
            self._file.write(np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).tobytes())
            self._file.flush()  # graphs are checked together with what they point to
            self._end = offset + value.nbytes
            self._tensors[tensor] = (offset, value.shape)
        return self._tensors[tensor][0]

    def location(self, tensor: str) -> tuple[int, tuple[int, ...]]:
        """Return the offset in bytes and the shape of a tensor that was added."""
        return self._tensors[tensor]


class Graph:
    """An ONNX graph under construction. Values are handled by name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._part = ""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Name the nodes added within the block `<name>/<operator>_<number>`, so that a profile can tell where time goes."""
        outer, self._part = self._part, f"{name}/"
        try:
            yield
        finally:
            self._part = outer

    def input(self, name: str, dims: Dims, default: NDArray[Any] | None = None, dtype: DTypeLike = np.float32) -> str:
        """Add an input, of `dtype` unless its default says otherwise; one with a default is optional."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype) if default is None else default.dtype)
        self._inputs.append(helper.make_tensor_value_info(name, kind, dims))
        if default is not None:
            self._initializers[name] = numpy_helper.from_array(default, name)
        return name

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, of the standard domain unless `domain` is among the attributes, and name its only output."""
        return self.ops(operator, *inputs, outputs=1, **attributes)[0]

    def ops(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs and name them."""
        node = f"{self._part}{operator}_{len(self._nodes)}"
        names = [node] if outputs == 1 else [f"{node}.{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, name=node, **attributes))
        return names

    def constant(self, value: NDArray[Any]) -> str:
        """Add a constant stored in the graph itself, equal ones once, and name it."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._initializers[name] = numpy_helper.from_array(value, name)
            self._constants[key] = name
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """Add a constant vector of int64, as shapes and axes are given, and name it."""
        return self.constant(np.array(values, dtype=np.int64))

    def scalar(self, value: float) -> str:
        """Add a constant number of float32 without axes, and name it."""
        return self.constant(np.array(value, dtype=np.float32))

    def weight(self, name: str, value: NDArray[Any], file: WeightFile) -> str:
        """Add a constant stored in `file` under its own name."""
        if name not in self._initializers:
            offset = file.add(name, value)
            self.external(name, value.shape, value.dtype, file.name, offset)
        return name

    def optional_weight(self, name: str, value: Array, file: WeightFile) -> str:
        """Add an optional input whose default is stored in `file`."""
        if name not in self._initializers:
            self.weight(name, value, file)
            self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
        return name

    def external(self, name: str, shape: Sequence[int], dtype: np.dtype[Any], location: str, offset: int = 0) -> str:
        """Add a constant whose bytes lie in the file `location` beside the graph, from `offset` on."""
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        length = dtype.itemsize * int(np.prod(shape))
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor
        return name

    def output(self, name: str, source: str, dims: Dims, kind: int = TensorProto.FLOAT) -> None:
        """Publish the value `source` under `name`."""
        self._nodes.append(helper.make_node("Identity", [source], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, kind, dims))

    def require_inputs(self) -> None:
        """Take the defaults of optional inputs out of the graph, so that every run must feed them."""
        for value in self._inputs:
            self._initializers.pop(value.name, None)

    def model(self) -> onnx.ModelProto:
        """Return the model without its external data."""
        initializers = list(self._initializers.values())
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, initializers)
        domains = sorted({node.domain for node in self._nodes} - {""})
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)],
            ir_version=IR_VERSION,
            producer_name="mingle-edge",
        )

    def save(self, path: Path) -> None:
        """Write the model and let the ONNX checker judge it together with its external data."""
        path.write_bytes(self.model().SerializeToString(deterministic=True))
        onnx.checker.check_model(path)
