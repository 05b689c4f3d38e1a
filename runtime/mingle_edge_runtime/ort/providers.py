"""Execution providers by the names that people know them by."""

from __future__ import annotations

from collections.abc import Iterable

from mingle_edge_runtime.errors import ProviderError
from mingle_edge_runtime.ort.session import CPU, onnxruntime

_SUFFIX = "executionprovider"
_OTHER_NAMES = {"directml": "dml"}
"""short names that are not ONNX Runtime's own without `ExecutionProvider`"""
_NVIDIA = ("cuda", "tensorrt")


def resolve_providers(requested: str | Iterable[str] | None) -> list[str]:
    """Return full names of the requested providers in order, of the CPU's when none is.

    requested: one name or several, as ONNX Runtime writes them (`CUDAExecutionProvider`) or short (`cuda`, `tensorrt`,
    `coreml`, `directml`, `openvino`, `cpu`), in letters of any case.

    Raises `ProviderError` listing what this ONNX Runtime has where one of them is not there, or is no name.
    """
    available = onnxruntime().get_available_providers()
    known = {_short(name): name for name in available}
    names = [requested] if isinstance(requested, str) else [] if requested is None else requested
    if not isinstance(names, Iterable):
        raise ProviderError(f"providers is {names!r}, must be a name like 'cuda', or several in order of preference")
    full = []
    for name in names:
        if not isinstance(name, str):
            raise ProviderError(f"provider {name!r} is no name like 'cuda'; options of a provider are not taken")
        short = _short(name)
        if (found := known.get(_OTHER_NAMES.get(short, short))) is None:
            hint = "; for NVIDIA GPUs, pip install onnxruntime-gpu in place of onnxruntime" if short in _NVIDIA else ""
            raise ProviderError(f"provider {name!r} is not available; this ONNX Runtime has {', '.join(known)}{hint}")
        full.append(found)
    return full or [CPU]


def _short(name: str) -> str:
    return name.lower().removesuffix(_SUFFIX)
