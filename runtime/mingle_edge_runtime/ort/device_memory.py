"""Memory of the devices that execution providers compute on: which one is whose, what is copied there, when it is full."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "ROCMExecutionProvider": "cuda",  # ONNX Runtime's name of any GPU that CUDA or HIP drives
    "MIGraphXExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "CANNExecutionProvider": "cann",
    "WebGpuExecutionProvider": "webgpu",
}
"""Providers whose device holds values of its own, with ONNX Runtime's name of that device.

All others, Core ML and OpenVINO among them, take their inputs from the machine's memory in every run.
"""
_FULL = re.compile(
    r"failed to allocate memory|out of memory|bad_?alloc|8007000E|E_OUTOFMEMORY|not enough memory", re.IGNORECASE
)
"""What ONNX Runtime's arena, CUDA, the C++ library and DirectX say where there is no memory left; there is no error code."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of ONNX Runtime means that its device has no memory left."""
    return isinstance(error, MemoryError) or _FULL.search(str(error)) is not None


def copy_values(values: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Copy `onnxruntime.OrtValue`s of the host, of any element type, to memory of `device`, and return the copies."""
    copies = {}
    for name, value in values.items():
        array = value.numpy()
        # ONNX Runtime copies to any device but its own, whose values share the array's memory and keep the array.
        copies[name] = type(value).ortvalue_from_numpy(array.copy() if device == "cpu" else array, device, 0)
    return copies
