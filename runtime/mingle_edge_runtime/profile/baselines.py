"""What a user would do without the experts, to be timed on the same requests.

Each builder loads what its baseline needs and returns the function that runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.errors import EdgeError
from mingle_edge_runtime.experts.adapter import read_adapter
from mingle_edge_runtime.experts.mixture import mix
from mingle_edge_runtime.ort.machine import available_memory
from mingle_edge_runtime.ort.session import Session
from mingle_edge_runtime.profile.interleaving import Requests, Run
from mingle_edge_runtime.serving.edge_model import EdgeModel


@dataclass(frozen=True)
class Setting:
    """What every builder is given."""

    bundle: Bundle
    requests: Requests
    providers: Sequence[str]
    """full names"""
    threads: int | None

    def session(self, graph: str, trace: Path | None = None) -> Session:
        """Load one of the bundle's graphs; see `Session` for `trace`."""
        one_by_one = self.bundle.index.one_by_one
        return Session(self.bundle.graph(graph), self.providers, self.threads, one_by_one=one_by_one, trace=trace)


def dense(setting: Setting) -> Run:
    """Load the tower without experts, the floor, and return what runs it."""
    session = setting.session(setting.bundle.index.dense)
    return lambda pixels, request: session.run({"pixel_values": pixels})


def all_experts(setting: Setting) -> Run:
    """Load what computes every expert on every image, as in the dense form of the method, and return what runs it.

    Image scope: the experts joined into one, once and beforehand, so that what is timed is their arithmetic alone.
    Layer scope: all of them in every layer, weighted by the gates.
    """
    bundle, tasks = setting.bundle, setting.bundle.index.tasks
    if bundle.index.scope == "layer":
        every = replace(bundle, index=replace(bundle.index, top_k=len(tasks)))
        scope = EdgeModel.open(every, providers=setting.providers, threads=setting.threads).scope
        return lambda pixels, request: scope.embed(pixels)
    tower = setting.session(bundle.index.tower)
    experts = [read_adapter(bundle, task, tower.optional_inputs) for task in tasks]
    shares = [1 / len(tasks)] * len(tasks)
    return with_expert(tower, mix(experts, shares, bundle.read_defaults()))


def separate_models(setting: Setting) -> Run:
    """Load one dense model per task, and return what switches between them: fine-tuned models cost the same."""
    sessions = [setting.session(setting.bundle.index.dense) for _ in setting.bundle.index.tasks]
    return lambda pixels, request: sessions[setting.requests.task(request)].run({"pixel_values": pixels})


def reload(setting: Setting) -> Run:
    """Load one dense model, and return what opens it anew whenever a request names another task than the one before."""
    graph, named = setting.bundle.index.dense, setting.requests.task(0)
    session: Session | None = setting.session(graph)

    def run(pixels: NDArray[np.float32], request: int) -> object:
        nonlocal session, named
        if session is None or named != setting.requests.task(request):
            session = None  # dropped before the next is opened: never two in memory
            session, named = setting.session(graph), setting.requests.task(request)
        return session.run({"pixel_values": pixels})

    return run


def with_expert(tower: Session, arrays: Mapping[str, NDArray[Any]]) -> Run:
    """Return what runs the tower with these optional inputs."""
    return lambda pixels, request: tower.run({"pixel_values": pixels, **arrays})


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
    """Raise `EdgeError` where a name is unknown or given twice, where there is no expert to compute, or where the separate
    models would not fit in memory.
    """
    for name in names:
        if name not in BUILDERS:
            raise EdgeError(f"there is no baseline {name!r}; choose from {', '.join(BUILDERS)}")
    if len(set(names)) < len(names):
        raise EdgeError(f"a baseline is given twice in {', '.join(names)}: name each once")
    if "all-experts" in names and not has_experts(bundle):
        raise EdgeError(f"all-experts computes every expert, and {bundle.root.name} has none: leave it out")
    needed, available = len(bundle.index.tasks) * backbone_bytes(bundle), available_memory()
    if "separate-models" in names and available is not None and needed > available:
        raise EdgeError(
            f"separate-models keeps {len(bundle.index.tasks)} dense models in memory, about {needed >> 20} MiB, and "
            f"{available >> 20} MiB are available: leave it out, or measure on a larger machine"
        )


def has_experts(bundle: Bundle) -> bool:
    """Return whether there are experts beside the tower; a task merged into its weights has none."""
    return bundle.index.page_bank is not None or bundle.index.tasks[0].expert is not None


def backbone_bytes(bundle: Bundle) -> int:
    """Return about what one dense model takes: the bytes of the file that the graphs share."""
    index = bundle.index
    own = {index.golden, *(str(path) for task in index.tasks for path in (task.head, task.bias, task.expert))}
    own |= {index.page_bank.file} if index.page_bank else set()
    return sum(record.size for name, record in index.files.items() if name not in own)
