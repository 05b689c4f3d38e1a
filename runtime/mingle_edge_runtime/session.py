"""ONNX Runtime sessions: checked version, checked provider, no telemetry, nothing on standard error."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.errors import BundleError, EdgeError, ProviderError

CPU = "CPUExecutionProvider"
DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""Providers that copy their inputs to a device, with ONNX Runtime's name of that device."""
Outputs: TypeAlias = Mapping[str, tuple[int, ...]]
"""Name -> shape for one image, -1 for any size."""
_FATAL_ONLY = 4  # log severity; errors are raised, and a library does not print


def onnxruntime() -> Any:
    """The `onnxruntime` module. Raises `ProviderError` naming the extras where it is not installed."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ProviderError(
            'ONNX Runtime is not installed: pip install "mingle-edge[cpu]", or "mingle-edge[gpu]" for CUDA'
        ) from error


def check_version(minimum: str) -> None:
    """Raise `ProviderError` where the installed ONNX Runtime is older than the dotted version `minimum`."""
    installed = onnxruntime().__version__
    if _numbers(installed) < _numbers(minimum):
        raise ProviderError(f"the bundle needs onnxruntime {minimum} or newer, {installed} is installed: upgrade it")


def resolve_providers(requested: Sequence[str] | None) -> list[str]:
    """Full names of the requested providers, `CPUExecutionProvider` when none is; `cuda` is short for the full name.

    Raises `ProviderError` listing what this ONNX Runtime has where one of them is not there.
    """
    available = onnxruntime().get_available_providers()
    known = {name.lower(): name for name in available}
    known |= {name.lower().removesuffix("executionprovider"): name for name in available}
    names = list(requested or [CPU])
    for name in names:
        if name.lower() not in known:
            raise ProviderError(f"provider {name!r} is not available; this ONNX Runtime has {', '.join(available)}")
    return [known[name.lower()] for name in names]


class Session:
    """One graph, ready to run from any thread."""

    def __init__(
        self,
        path: Path,
        providers: Sequence[str],
        threads: int | None = None,
        *,
        outputs: Outputs | None = None,
        initializers: Mapping[str, NDArray[np.float32]] | None = None,
        spin: bool = True,
        trace: Path | None = None,
    ) -> None:
        """Load the graph at `path` on `providers`, full names in order of preference.

        threads: of one operator; None lets ONNX Runtime decide (one per physical core).
        outputs: what a run returns, with the shapes it must have; None: everything the graph has, of any shape.
        initializers: tensors to use in place of the graph's own by that name, not copied on the CPU provider.
        spin: whether idle threads wait actively for more work, which is faster for this session and slows whatever runs
        right after it on the same cores.
        trace: record the time of every operator from now on; the file of `end_trace` begins with this path.

        Raises `BundleError` where the graph does not load, `ProviderError` where it does not load on the first provider.
        """
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace)
        # ONNX Runtime keeps no reference to these values nor to the arrays under them.
        self._initializers = dict(initializers or {})
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._initializers.items()}
        for name, value in self._values.items():
            options.add_initializer(name, value)
        try:
            self._session = ort.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise BundleError(f"{path} does not load in ONNX Runtime {ort.__version__}: {_line(error)}") from error
        self._session.disable_fallback()
        if providers[0] not in self._session.get_providers():
            raise ProviderError(
                f"{providers[0]} could not be started for {path.name}: check its driver and libraries; "
                f"ONNX Runtime fell back to {', '.join(self._session.get_providers())}"
            )
        self._path = path
        self._traces = trace is not None
        self.optional_inputs = {item.name for item in self._session.get_overridable_initializers()}
        self._shapes = outputs or {}
        self._outputs = list(outputs) if outputs else [output.name for output in self._session.get_outputs()]

    def run(
        self, inputs: Mapping[str, NDArray[Any]], adapter: Any = None, values: Mapping[str, Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Outputs by name.

        inputs: with `pixel_values [n, 3, S, S]` among them.
        adapter: a loaded `onnxruntime.LoraAdapter` whose parameters override optional inputs in this run.
        values: `onnxruntime.OrtValue`s of further inputs, wherever they live.

        Raises `BundleError` where the graph does not run on these inputs or returns other shapes than it must.
        """
        ort = onnxruntime()
        options = ort.RunOptions()
        options.log_severity_level = _FATAL_ONLY
        if adapter is not None:
            options.add_active_adapter(adapter)
        try:
            if values:
                feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
                found = self._session.run_with_ort_values(self._outputs, feeds | dict(values), options)
                arrays = {name: value.numpy() for name, value in zip(self._outputs, found, strict=True)}
            else:
                arrays = dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs), options), strict=True))
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise BundleError(f"{self._path} does not run: {_line(error)}") from error
        for name, shape in self._shapes.items():
            wanted, actual = (len(inputs["pixel_values"]), *shape), arrays[name].shape
            if len(actual) != len(wanted) or any(w not in (-1, a) for w, a in zip(wanted, actual, strict=True)):
                raise BundleError(f"{self._path} returns {name} {list(actual)} instead of {list(wanted)}")
        return arrays

    def end_trace(self) -> Path:
        """Stop recording and write ONNX Runtime's trace, Chrome's JSON format with times in microseconds.

        Raises `EdgeError` where the session was opened without `trace`, or the trace has ended already.
        """
        if not self._traces:
            raise EdgeError(f"no trace of {self._path.name} is being recorded: open the session with `trace`")
        self._traces = False
        return Path(self._session.end_profiling())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
