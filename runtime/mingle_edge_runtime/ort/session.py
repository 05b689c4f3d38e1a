"""ONNX Runtime sessions: checked version, checked provider, no telemetry, nothing on standard error."""

from __future__ import annotations

import functools
import importlib
import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.graph import Graph
from mingle_edge_runtime.errors import BundleError, DeviceMemoryError, EdgeError, ProviderError, ThreadsError
from mingle_edge_runtime.ort.bound_inputs import BoundInputs
from mingle_edge_runtime.ort.device_memory import is_out_of_memory

CPU = "CPUExecutionProvider"
MOST_THREADS = 1024
"""of one operator: with tens of thousands ONNX Runtime never begins"""
EMBEDDINGS = "image_embeds"
"""The output that heads read, whose rows must be finite, and of unit length where the architecture says so."""
PER_IMAGE = ("pixel_values", "previous_features", "image_embeds")
"""Inputs that have a row for each image of a run."""
_UNIT = 1e-3
"""How far from 1 the length of an embedding may be."""
Placement: TypeAlias = Mapping[str, Mapping[str, int]]
"""Provider -> operator -> number of nodes; empty where ONNX Runtime is too old to tell, before 1.24."""
Outputs: TypeAlias = Mapping[str, tuple[int, ...]]
"""Name -> shape for one image, -1 for any size."""
_ELEMENTS = {
    f"tensor({name})": np.dtype(numpy_name)
    for name, numpy_name in {"float": "<f4", "float16": "<f2", "int8": "i1", "uint8": "u1", "int64": "<i8"}.items()
}
ONE_RUN_AT_A_TIME = frozenset(["DmlExecutionProvider"])
"""Providers that allow no overlapping runs of one session."""
_sessions: weakref.WeakSet[Any] = weakref.WeakSet()
_FATAL_ONLY = 4  # log severity; errors are raised, and a library does not print


def onnxruntime() -> Any:
    """Import `onnxruntime` and return it. Raises `ProviderError` where it is not installed, or does not import."""
    try:
        module = importlib.import_module("onnxruntime")
    except Exception as error:  # a missing library, another numpy, a broken installation: errors of any type
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise ProviderError(
                "ONNX Runtime is not installed: pip install onnxruntime, or onnxruntime-gpu for CUDA"
            ) from error
        raise ProviderError(
            f"ONNX Runtime does not import, {type(error).__name__}: {printable(error)}; mend that, or install it again"
        ) from error
    if not hasattr(module, "__version__"):
        where = ", ".join(getattr(module, "__path__", ()))
        raise ProviderError(
            f"ONNX Runtime is not whole: {where} is what an uninstalled package left; remove that folder, then "
            "pip install onnxruntime, or onnxruntime-gpu for CUDA"
        )
    return module


def check_version(minimum: str) -> None:
    """Raise `ProviderError` where the installed ONNX Runtime is older than the dotted version `minimum`."""
    installed = onnxruntime().__version__
    if _numbers(installed) < _numbers(minimum):
        raise ProviderError(f"the bundle needs onnxruntime {minimum} or newer, {installed} is installed: upgrade it")


def check_threads(threads: int | None) -> None:
    """Raise `ThreadsError` where a number of threads is none that ONNX Runtime can use."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ThreadsError(f"threads is {threads}, must be at least 1 and at most {MOST_THREADS}")


class OptionalInput(NamedTuple):
    """What a run may override."""

    shape: tuple[int | str | None, ...]
    """a name for a side of any size, the same wherever the name is the same"""
    dtype: np.dtype[Any]


class Session:
    """One graph, ready to run from any thread."""

    def __init__(
        self,
        graph: Graph | Path,
        providers: Sequence[str],
        threads: int | None = None,
        *,
        outputs: Outputs | None = None,
        initializers: Mapping[str, NDArray[np.float32]] | None = None,
        spin: bool = True,
        one_by_one: bool = False,
        normalized: bool = True,
        prepack: bool = True,
        trace: Path | None = None,
    ) -> None:
        """Load a graph on `providers`, full names in order of preference.

        graph: of a bundle, or the path of one that is trusted.
        threads: of one operator; None lets ONNX Runtime decide (one per physical core).
        outputs: what a run returns, with the shapes it must have; None: everything the graph has, of any shape.
        initializers: tensors to use in place of the graph's own by that name, not copied on the CPU provider.
        spin: whether idle threads wait actively for more work, which is faster for this session and slows whatever runs
        right after it on the same cores.
        one_by_one: run the images of a batch one at a time, where they would otherwise share something (see
        `BundleIndex.one_by_one`).
        normalized: whether embeddings must have unit length; finite they must be in any case.
        prepack: whether ONNX Runtime copies the weights into the layout its kernels are fastest with; if not, they stay mapped
        from their file, and slower to use.
        trace: record the time of every operator from now on; the file of `end_trace` begins with this path.

        Raises `BundleError` where the graph does not load, `ProviderError` where it does not load on the first provider.
        """
        ort = onnxruntime()
        check_threads(threads)
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for `placement`; takes 1 ms
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace)
        # ONNX Runtime keeps no reference to these values nor to the arrays under them.
        self._initializers = dict(initializers or {})
        self._normalized = normalized
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._initializers.items()}
        for name, value in self._values.items():
            options.add_initializer(name, value)
        if isinstance(graph, Path):
            graph = Graph(graph, graph, (), lambda: None)
        self.path = graph.path
        self._weights = graph.weights
        try:
            kind = _cpu_session(ort.InferenceSession) if providers[0] == CPU else ort.InferenceSession
            self._session = kind(str(graph.location), options, providers=list(providers))
            self.optional_inputs = optional_inputs(self._session)
            """what a run may override, by name"""
            self.inputs = {item.name: tuple(item.shape) for item in self._session.get_inputs()}
            """what every run must be given, by name: shapes with a name for a side of any size"""
            self._outputs = list(outputs) if outputs else [output.name for output in self._session.get_outputs()]
            started = self._session.get_providers()
        except Exception as error:  # ONNX Runtime's errors share no base class, and its texts may be no UTF-8
            graph.check_located()
            raise BundleError(f"{self.path} does not load in ONNX Runtime {ort.__version__}: {printable(error)}") from error
        graph.check_located()
        self._session.disable_fallback()
        if providers[0] not in started:
            raise ProviderError(
                f"{providers[0]} could not be started for {self.path.name}: check its driver and libraries "
                "(call onnxruntime.preload_dlls() first where pip installed them); "
                f"ONNX Runtime fell back to {', '.join(started)}"
            )
        self._provider = providers[0]
        self._turn = threading.Lock() if providers[0] in ONE_RUN_AT_A_TIME else nullcontext()
        self._traces = trace is not None
        self._one_by_one = one_by_one
        self._shapes = outputs or {}
        _sessions.add(self._session)

    def bind(self, values: Mapping[str, Any]) -> BoundInputs:
        """Bind `onnxruntime.OrtValue`s of some inputs, wherever they live, once for many runs."""
        return BoundInputs(self._session, values)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], adapter: Callable[[], Any] | None = None, bound: BoundInputs | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run the graph and return its outputs by name.

        inputs: with at least one of `PER_IMAGE` among them, n rows each.
        adapter: gives the `onnxruntime.LoraAdapter` whose parameters override optional inputs in this run.
        bound: further inputs, from `bind`; ONNX Runtime ignores an adapter beside them, so it must be None then.

        Raises `BundleError` where the graph does not run on these inputs or returns other shapes than it must, or a file that
        it reads its weights from has become shorter; `ExpertError` where the adapter's has; `DeviceMemoryError` where the
        device has no memory left for the run.
        """
        rows = {name: inputs[name] for name in PER_IMAGE if name in inputs}
        count = len(next(iter(rows.values())))
        if self._one_by_one and count > 1:
            alone = ({name: values[i : i + 1] for name, values in rows.items()} for i in range(count))
            singles = [self.run({**inputs, **row}, adapter, bound) for row in alone]
            return {name: np.concatenate([single[name] for single in singles]) for name in singles[0]}
        for file in self._weights:
            file.check()
        options = onnxruntime().RunOptions()
        options.log_severity_level = _FATAL_ONLY
        active = None if adapter is None else adapter()
        try:
            if active is not None:
                options.add_active_adapter(active)
            with self._turn:
                if bound is not None:
                    values = bound.run(inputs, self._outputs, options)
                else:
                    values = self._session.run(self._outputs, dict(inputs), options)
        except Exception as error:  # ONNX Runtime's errors share no base class
            if is_out_of_memory(error):
                raise DeviceMemoryError(
                    f"no memory left to run {self.path.name} on {count} images: run fewer at once, or lower the expert budget "
                    f"({printable(error)})"
                ) from error
            raise BundleError(f"{self.path} does not run: {printable(error)}") from error
        arrays = dict(zip(self._outputs, values, strict=True))
        for name, shape in self._shapes.items():
            wanted, actual = (count, *shape), arrays[name].shape
            if len(actual) != len(wanted) or any(w not in (-1, a) for w, a in zip(wanted, actual, strict=True)):
                raise BundleError(f"{self.path} returns {name} {list(actual)} instead of {list(wanted)}")
            if arrays[name].dtype.kind not in "fiu":
                raise BundleError(f"{self.path} returns {name} as {arrays[name].dtype}, which are no numbers: export it again")
            if name == EMBEDDINGS and not (_are_unit(arrays[name]) if self._normalized else np.isfinite(arrays[name]).all()):
                wrong = "not finite or not of unit length" if self._normalized else "not finite"
                raise BundleError(
                    f"{self.path} computes an embedding that is {wrong}: a weight is damaged or too large for "
                    "its precision; verify the bundle, or export it again in a higher precision"
                )
        return arrays

    def placement(self) -> Placement:
        """Count the nodes that each provider runs, as the graph was divided before each provider fused its own."""
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            return {}
        counts: dict[str, Counter[str]] = {}
        for part in self._session.get_provider_graph_assignment_info():
            counts.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
        return counts

    def fallback(self) -> list[str]:
        """Return notes for users of a provider other than the CPU: the nodes that run elsewhere than on the first provider."""
        if self._provider == CPU:
            return []
        placement = self.placement()
        if not placement:
            return [f"which nodes of {self.path.name} run on {self._provider} is only told by onnxruntime 1.24 or newer"]
        total = sum(sum(operators.values()) for operators in placement.values())
        return [
            f"{sum(operators.values())} of {total} nodes of {self.path.name} run on {provider} instead of {self._provider}: "
            + ", ".join(f"{operator} {count}" for operator, count in sorted(operators.items()))
            for provider, operators in placement.items()
            if provider != self._provider
        ]

    def end_trace(self) -> Path:
        """Stop recording and write ONNX Runtime's trace, Chrome's JSON format with times in microseconds.

        Raises `EdgeError` where the session was opened without `trace`, or the trace has ended already.
        """
        if not self._traces:
            raise EdgeError(f"no trace of {self.path.name} is being recorded: open the session with `trace`")
        self._traces = False
        return Path(self._session.end_profiling())


@functools.cache
def _cpu_session(kind: type[Any]) -> type[Any]:
    """Return the kind of session without its way to fall back, which prints and loads the graph again on the CPU."""
    return type(kind.__name__, (kind,), {"_enable_fallback": property(lambda _: False, lambda _, value: None)})


def _are_unit(embeds: NDArray[Any]) -> bool:
    lengths = np.linalg.norm(embeds.astype(np.float64), axis=-1)
    return bool((np.abs(lengths - 1) <= _UNIT).all())  # NaN is not


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def optional_inputs(session: Any) -> dict[str, OptionalInput]:
    """Return what a run of an `onnxruntime.InferenceSession` may override, by name."""
    return {
        item.name: OptionalInput(tuple(item.shape), _ELEMENTS.get(item.type, np.dtype(object)))
        for item in session.get_overridable_initializers()
    }


def printable(error: Exception) -> str:
    """Return an error of others in one line of moderate length that a terminal shows as it is."""
    line = " ".join(str(error).split())[:200]
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in line)


def _keep_sessions() -> None:
    """Never free a session of the parent in a forked child, not even when the child ends.

    A fork copies memory and leaves every thread but one behind: ONNX Runtime's threads are not there to run, nor to be waited
    for when a session ends, so using or freeing one hangs.
    """
    import ctypes  # in children alone

    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # modules, and lists in them, are cleared as a process ends


os.register_at_fork(after_in_child=_keep_sessions)
