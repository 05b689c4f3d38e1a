"""Bundles of the image scope: one route for the whole network, and the expert as optional inputs of the tower."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.index import Task
from mingle_edge_runtime.errors import BundleError, DeviceMemoryError, ExpertError
from mingle_edge_runtime.experts.adapter import map_adapter, read_adapter, resident_bytes
from mingle_edge_runtime.experts.mixture import mix
from mingle_edge_runtime.experts.store import ExpertStore
from mingle_edge_runtime.ort.bound_inputs import BoundInputs
from mingle_edge_runtime.ort.device_memory import DEVICES, copy_values, is_out_of_memory
from mingle_edge_runtime.ort.session import CPU, Outputs, Placement, Session, onnxruntime, printable
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.scope import GoldenRuns

_SUM = 1e-3
"""how far from 1 the sum of a posterior may be"""


@dataclass(frozen=True)
class ExpertInputs:
    """What an expert gives a run of the tower, in one of three ways."""

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """optional inputs, copied in every run"""
    adapter: Callable[[], Any] | None = None
    """gives the mapped adapter to the run that follows at once"""
    bound: BoundInputs | None = None
    """optional inputs in the device's memory"""


class ImageScope:
    """Routes images, and runs the tower once for each group of equal routes. Keeps the protocol `RoutedScope`."""

    def __init__(
        self,
        bundle: Bundle,
        budget: int | None,
        providers: Sequence[str],
        threads: int | None,
        low_memory: bool = False,
        device: str | None = None,
    ) -> None:
        """Open the tower, and the router later; arguments as in `open_scope`.

        device: where experts are copied to and bound as inputs; the first provider's own memory when None.
        """
        index = bundle.index
        if index.router is None or index.defaults is None:
            raise BundleError(f"{bundle.root} has no router: it is no bundle of the image scope")
        self._bundle = bundle
        with np.errstate(over="ignore"):  # beyond float32 no image is claimed, or every one
            self._bound = np.float32(index.router.confidence_bound)  # the confidence is computed in float32, too
        self._joins = index.top_k > 1
        routed: Outputs = {"posterior": (len(index.tasks),), "confidence": ()}
        # The tower follows at once and needs the cores that the router's threads would spin on.
        routing: Any = {"one_by_one": index.router.one_by_one, "spin": False}
        self._open_router = partial(
            Session, bundle.graph(index.router.file), providers, threads, outputs=routed, prepack=not low_memory, **routing
        )
        self._router: Session | None = None
        self._router_lock = threading.Lock()
        embedded: Outputs = {"image_embeds": (index.architecture.output_dim,)}
        self._tower = Session(
            bundle.graph(index.tower),
            providers,
            threads,
            outputs=embedded,
            prepack=not low_memory,
            one_by_one=index.one_by_one,
            normalized=index.architecture.normalized,
        )
        self._defaults = bundle.read_defaults() if self._joins else {}
        device = None if self._joins else device or DEVICES.get(providers[0])
        expanded = [task.name for task in index.tasks if index.expands(task)]
        load, notes = _mapped_or_expanded, list[str]()
        if self._joins:
            load, notes = _read, ["experts are copied to memory to be joined, not mapped"]
        elif device is not None:
            load, notes = partial(_bound, device), [f"experts are copied to memory of the {device} device, not mapped"]
        elif expanded:
            which = "experts" if len(expanded) == len(index.tasks) else f"{len(expanded)} of {len(index.tasks)} experts"
            notes = [f"{which} are expanded from 4 bits to 8 in memory, not mapped"]
        if providers[0] != CPU and device is None:
            notes.append(f"experts stay in this machine's memory: {providers[0]} copies what it needs of them in every run")
        parts = {task.name: {task.name: resident_bytes(index, task)} for task in index.tasks}
        # Loaded by functions, not methods, of the scope: a scope that is let go is then freed at once.
        opened, tasks = partial(load, bundle, self._tower), {task.name: task for task in index.tasks}
        self.experts = ExpertStore(
            parts, lambda task: opened(tasks[task]), budget, index.top_k, notes=[*notes, *self._tower.fallback()]
        )

    @property
    def routed(self) -> ImageScope:
        """Return this scope: its router finds routes before the tower runs."""
        return self

    def prepare_routing(self) -> Session:
        """Open the router unless it is open, and return its session: where every task is named its weights take no memory."""
        with self._router_lock:
            if self._router is None:
                self._router = self._open_router()
            return self._router

    def route(self, pixels: NDArray[np.float32]) -> list[Route]:
        """Return one route per image of `[n, 3, S, S]`. Raises `BundleError` where the router's posterior is none."""
        if not len(pixels):
            return []
        router = self.prepare_routing()
        outputs = router.run({"pixel_values": pixels})
        posterior = outputs["posterior"]  # [n, T]
        if not ((posterior >= 0).all() and (np.abs(posterior.sum(axis=1) - 1) <= _SUM).all()):  # so that NaN is wrong
            raise BundleError(
                f"{router.path} computes probabilities of tasks that are negative, not finite, or do not sum to 1: a weight is "
                "damaged; verify the bundle, or export it again"
            )
        return [self._choose(*row) for row in zip(posterior, outputs["confidence"], strict=True)]

    def embed(self, pixels: NDArray[np.float32], task: str | None = None) -> tuple[NDArray[np.float32], list[Route]]:
        """Return `[n, dim]` embeddings and the n routes taken; a named task skips the router."""
        if task is not None:
            return self._run(pixels, (task,), (1.0,)), [Route((task,), (1.0,))] * len(pixels)
        routes = self.route(pixels)
        return self.embed_routed(pixels, routes), routes

    def embed_routed(self, pixels: NDArray[np.float32], routes: Sequence[Route]) -> NDArray[np.float32]:
        """Return `[n, dim]` embeddings by n given routes, run by run of equal ones."""
        groups: dict[tuple[tuple[str, ...], tuple[float, ...]], list[int]] = {}
        for i, route in enumerate(routes):
            groups.setdefault((route.tasks, route.weights), []).append(i)
        embeds = np.empty((len(pixels), self._bundle.index.architecture.output_dim), np.float32)
        for (tasks, weights), members in groups.items():
            embeds[members] = self._run(pixels[members], tasks, weights)
        return embeds

    def embed_plain(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `[n, dim]` embeddings of the plain backbone."""
        return self._run(pixels, (), ())

    def golden_runs(self, pixels: NDArray[np.float32]) -> GoldenRuns:
        """Return the router's outputs, and runs of the plain backbone, of every task's expert, and of every image claimed."""
        routes = self.route(pixels)
        plain = self.embed_plain(pixels)
        claimed = [self._claim(route) for route in routes]
        unclaimed = [replace(route, tasks=(), weights=()) for route in routes]
        arrays = {
            "plain": plain,
            "posterior": np.array([route.posterior for route in routes]),
            "confidence": np.array([route.confidence for route in routes]),
            "embeds": np.stack([self.embed(pixels, task)[0] for task in self._bundle.index.task_names]),
        }
        return GoldenRuns(arrays, [(self.embed_routed(pixels, claimed), claimed), (plain, unclaimed)])

    def placement(self) -> dict[str, Placement]:
        """Return the nodes that each provider runs; see `EdgeModel.placement`."""
        return {session.path.name: session.placement() for session in (self.prepare_routing(), self._tower)}

    def _claim(self, route: Route) -> Route:
        """Return the route of an image that the router claims: the `top_k` most probable tasks, weights summing to 1."""
        posterior = np.array(route.posterior, np.float32)
        best = np.argsort(-posterior, kind="stable")[: self._bundle.index.top_k]
        weights = posterior[best] / posterior[best].sum()
        names = tuple(self._bundle.index.task_names[i] for i in best)
        return replace(route, tasks=names, weights=tuple(weights.tolist()))

    def _choose(self, posterior: NDArray[np.float32], confidence: np.float32) -> Route:
        """Return the route of one image from its `posterior [T]` and confidence."""
        names, bound = self._bundle.index.task_names, float(self._bound)
        unclaimed = Route((), (), tuple(posterior.tolist()), float(confidence), candidates=names, confidence_bound=bound)
        return self._claim(unclaimed) if confidence >= self._bound else unclaimed  # NaN, too, means the plain backbone

    def _run(self, pixels: NDArray[np.float32], tasks: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        if not len(pixels):  # kernels exist that divide by the number of images, and end the process
            return np.empty((0, self._bundle.index.architecture.output_dim), np.float32)
        try:
            return self._run_once(pixels, tasks, weights)
        except DeviceMemoryError as error:
            self.experts.make_room(error)
        return self._run_once(pixels, tasks, weights)  # now that the error, too, has let go of its experts

    def _run_once(self, pixels: NDArray[np.float32], tasks: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        with ExitStack() as held:
            experts = [held.enter_context(self.experts.use(task)) for task in tasks]
            try:
                outputs = self._run_tower({"pixel_values": pixels}, experts, weights)
            except (BundleError, KeyError, ValueError) as error:  # the latter two where experts do not fit each other
                if not tasks:
                    raise
                raise ExpertError(f"the tower does not run with expert {', '.join(tasks)}: {error}") from error
        embeds: NDArray[np.float32] = outputs["image_embeds"]
        return embeds

    def _run_tower(
        self, inputs: dict[str, NDArray[np.float32]], experts: Sequence[ExpertInputs], weights: Sequence[float]
    ) -> dict[str, NDArray[Any]]:
        if len(experts) > 1:
            return self._tower.run(inputs | mix([expert.arrays for expert in experts], weights, self._defaults))
        expert = experts[0] if experts else ExpertInputs()
        return self._tower.run({**inputs, **expert.arrays}, expert.adapter, expert.bound)


def _mapped_or_expanded(bundle: Bundle, tower: Session, task: Task) -> ExpertInputs:
    """Serve one expert without a copy, unless it is stored in another form than the tower takes."""
    if bundle.index.expands(task):
        return _read(bundle, tower, task)
    return ExpertInputs(adapter=map_adapter(bundle, task, tower.optional_inputs).ready)


def _read(bundle: Bundle, tower: Session, task: Task) -> ExpertInputs:
    return ExpertInputs(arrays=read_adapter(bundle, task, tower.optional_inputs))


def _bound(device: str, bundle: Bundle, tower: Session, task: Task) -> ExpertInputs:
    arrays = read_adapter(bundle, task, tower.optional_inputs)
    try:
        values = {name: onnxruntime().OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        return ExpertInputs(bound=tower.bind(copy_values(values, device)))
    except Exception as error:  # ONNX Runtime's errors share no base class
        reason = printable(error)
        if is_out_of_memory(error):
            raise DeviceMemoryError(
                f"no memory left on the {device} device for expert {task.name!r}: free some, or choose the CPU provider "
                f"({reason})"
            ) from error
        raise ExpertError(f"expert {task.name!r} cannot be copied to the {device} device: {reason}") from error
