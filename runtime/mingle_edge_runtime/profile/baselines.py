"""What a user would do without the experts, to be timed on the same requests.

Each builder loads what its baseline needs and returns the function that runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.adapter import read_adapter
from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.errors import EdgeError
from mingle_edge_runtime.layer_scope import LayerScope
from mingle_edge_runtime.machine import available_memory
from mingle_edge_runtime.mixture import mix
from mingle_edge_runtime.profile.interleaving import Run
from mingle_edge_runtime.profile.requests import Requests
from mingle_edge_runtime.session import DEVICES, Session, onnxruntime


@dataclass(frozen=True)
class Setting:
    """What every builder is given."""

    bundle: Bundle
    requests: Requests
    providers: Sequence[str]
    """full names"""
    threads: int | None

    def session(self, graph: str) -> Session:
        """One of the bundle's graphs, loaded."""
        return Session(self.bundle.graph(graph), self.providers, self.threads)


def dense(setting: Setting) -> Run:
    """The tower without experts: the floor."""
    session = setting.session(setting.bundle.index.dense)
    return lambda pixels, request: session.run({"pixel_values": pixels})


def all_experts(setting: Setting) -> Run:
    """Every expert computed on every image, as in the dense form of the method.

    Image scope: the experts joined into one, once and beforehand, so that what is timed is their arithmetic alone.
    Layer scope: all of them in every layer, weighted by the gates.
    """
    index = setting.bundle.index
    if index.scope == "layer":
        scope = LayerScope(setting.bundle, None, setting.providers, setting.threads)
        return lambda pixels, request: scope.embed(pixels, top_k=len(index.tasks))
    session = setting.session(index.tower)
    tasks = [(setting.bundle.file(str(task.expert)), task) for task in index.tasks]
    experts = [read_adapter(path, task.expert_bytes, task.name, session.optional_inputs, None) for path, task in tasks]
    shares = [1 / len(tasks)] * len(tasks)
    joined = mix([expert.arrays() for expert in experts], shares, setting.bundle.read_defaults())
    device = DEVICES.get(setting.providers[0], "cpu")
    values = {name: onnxruntime().OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in joined.items()}
    return lambda pixels, request: session.run({"pixel_values": pixels}, values=values)


def separate_models(setting: Setting) -> Run:
    """One dense model per task, all resident behind a switch: fine-tuned models have its arithmetic and memory."""
    sessions = [setting.session(setting.bundle.index.dense) for _ in setting.bundle.index.tasks]
    return lambda pixels, request: sessions[setting.requests.task(request)].run({"pixel_values": pixels})


def reload(setting: Setting) -> Run:
    """One dense model at a time, opened when a request names another task than the one before, and dropped at the next."""
    return _Reload(setting)


BUILDERS: dict[str, Callable[[Setting], Run]] = {
    "dense": dense,
    "all-experts": all_experts,
    "separate-models": separate_models,
    "reload": reload,
}
BASELINES = tuple(BUILDERS)
SWITCHING = ("separate-models", "reload")
"""Those that a change of task concerns."""


def check_baselines(names: Sequence[str], bundle: Bundle) -> None:
    """Raise `EdgeError` where a name is unknown or given twice, or where the separate models would not fit in memory."""
    for name in names:
        if name not in BUILDERS:
            raise EdgeError(f"there is no baseline {name!r}; choose from {', '.join(BUILDERS)}")
    if len(set(names)) < len(names):
        raise EdgeError(f"a baseline is given twice in {', '.join(names)}: name each once")
    needed, available = len(bundle.index.tasks) * backbone_bytes(bundle), available_memory()
    if "separate-models" in names and available is not None and needed > available:
        raise EdgeError(
            f"separate-models keeps {len(bundle.index.tasks)} dense models in memory, about {needed >> 20} MiB, and "
            f"{available >> 20} MiB are available: leave it out, or measure on a larger machine"
        )


def backbone_bytes(bundle: Bundle) -> int:
    """About what one dense model takes: the file that the graphs share."""
    index = bundle.index
    own = {index.golden, *(task.head for task in index.tasks), *(str(task.expert) for task in index.tasks)}
    own |= {index.page_bank.file} if index.page_bank else set()
    return sum(record.size for name, record in index.files.items() if name not in own)


class _Reload:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._task = setting.requests.task(0)
        self._session: Session | None = setting.session(setting.bundle.index.dense)

    def __call__(self, pixels: NDArray[np.float32], request: int) -> object:
        task = self._setting.requests.task(request)
        if task != self._task or self._session is None:
            self._session = None  # dropped before the next is opened: never two in memory
            self._session = self._setting.session(self._setting.bundle.index.dense)
            self._task = task
        return self._session.run({"pixel_values": pixels})
