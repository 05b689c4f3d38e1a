"""Bundles of the image scope: one route for the whole network, and the expert as optional inputs of the tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

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
from mingle_edge_runtime.scopes.cascade import Cascade, Finding
from mingle_edge_runtime.scopes.judge import Judge
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.scope import GoldenRuns


@dataclass(frozen=True)
class ExpertInputs:
    """What an expert gives a run of the tower, in one of three ways."""

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """optional inputs, copied in every run"""
    adapter: Callable[[], Any] | None = None
    """gives the mapped adapter to the run that follows at once"""
    bound: BoundInputs | None = None
    """optional inputs in the device's memory"""


class Routed(NamedTuple):
    """One image's route and, where finding it took a run that gives the answer, the embedding."""

    route: Route
    embed: NDArray[np.float32] | None
    """`[dim]`"""


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
        self._bundle, self._router = bundle, index.router
        self._joins = index.top_k > 1
        self._cascade = Cascade(bundle, index.router, providers, threads, low_memory)
        judged = index.router.judge if len(index.tasks) > 1 and not self._joins else None
        self._judge = None if judged is None else Judge(bundle, judged)
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

    def prepare_routing(self) -> None:
        """Open the router's stages that are not open yet: where every task is named their weights take no memory."""
        self._cascade.sessions()

    def run_stages(self, pixels: NDArray[np.float32]) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield the outputs of each of the router's stages for all n images, whether they are in doubt or not."""
        return self._cascade.run_all(pixels, self.embed_plain)

    def route(self, pixels: NDArray[np.float32], group: str | None = None) -> list[Route]:
        """Return one route per image of `[n, 3, S, S]`. Raises `BundleError` where the router's posterior is none."""
        return [routed.route for routed in self._find(pixels, group)]

    def embed(
        self, pixels: NDArray[np.float32], task: str | None = None, group: str | None = None
    ) -> tuple[NDArray[np.float32], list[Route]]:
        """Return `[n, dim]` embeddings and the n routes taken; a named task skips the router."""
        if task is not None:
            return self._run(pixels, (task,), (1.0,)), [Route((task,), (1.0,))] * len(pixels)
        found = self._find(pixels, group)
        routes = [routed.route for routed in found]
        embeds = np.empty((len(pixels), self._bundle.index.architecture.output_dim), np.float32)
        rest = []
        for i, routed in enumerate(found):
            if routed.embed is None:
                rest.append(i)
            else:
                embeds[i] = routed.embed
        embeds[rest] = self.embed_routed(pixels[rest], [routes[i] for i in rest])
        return embeds, routes

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
        """Return the outputs of every stage, and runs of the plain backbone, of every task's expert, and of the `top_k` tasks
        that the last stage holds for most probable: what no device must decide for an image in doubt."""
        plain = self.embed_plain(pixels)
        stages = list(self._cascade.run_all(pixels, lambda _: plain))
        posterior: NDArray[np.float32] = stages[-1]["posterior"]
        probable = np.argsort(-posterior, axis=1, kind="stable")[:, : self._bundle.index.top_k]
        claimed = [self._mixture(row, best) for row, best in zip(posterior, probable, strict=True)]
        arrays = {name: np.stack([stage[name] for stage in stages]) for name in ("posterior", "losses", "confidence")}
        arrays |= {"plain": plain, "embeds": np.stack([self.embed(pixels, task)[0] for task in self._bundle.index.task_names])}
        unclaimed = [replace(route, tasks=(), weights=()) for route in claimed]
        return GoldenRuns(arrays, [(self.embed_routed(pixels, claimed), claimed), (plain, unclaimed)])

    def placement(self) -> dict[str, Placement]:
        """Return the nodes that each provider runs; see `EdgeModel.placement`."""
        return {session.path.name: session.placement() for session in (*self._cascade.sessions(), self._tower)}

    def _find(self, pixels: NDArray[np.float32], group: str | None) -> list[Routed]:
        """Return the route of each image, and its embedding where that is known by then."""
        mask = None
        if group is not None:
            members = (self._router.groups or {})[group]
            mask = np.array([name in members for name in self._bundle.index.task_names], np.float32)
        findings = self._cascade.find(pixels, self.embed_plain, mask)
        found = [
            Routed(route, None if route.tasks else finding.plain) for finding in findings for route in [self._route(finding)]
        ]
        judged = [i for i, finding in enumerate(findings) if finding.judged]
        if self._judge is not None and judged:
            decided = self._decide(self._judge, pixels[judged], [findings[i] for i in judged], [found[i].route for i in judged])
            for i, routed in zip(judged, decided, strict=True):
                found[i] = routed
        return found

    def _route(self, finding: Finding) -> Route:
        """Return the route of one image: the experts that are expected to lose least, unless the plain backbone loses less."""
        names, losses = self._bundle.index.task_names, finding.losses
        order = np.argsort(losses[:-1], kind="stable")
        chosen = finding.confident and bool(losses[order[0]] <= losses[-1])
        route = Route((), ()) if not chosen else self._mixture(finding.posterior, order[: self._bundle.index.top_k])
        return replace(
            route,
            posterior=tuple(finding.posterior.tolist()),
            confidence=finding.confidence,
            candidates=names,
            confidence_bound=finding.bound,
            stage=finding.stage.name,
            expected_loss=float(losses[order[0] if chosen else -1]),
            runner_up=names[order[1]] if len(names) > 1 else None,
            group=self._router.group_of(route.tasks[0]) if chosen else None,
        )

    def _mixture(self, posterior: NDArray[np.float32], best: NDArray[np.intp]) -> Route:
        """Return a route through these tasks, weighted by their probabilities, or equally where all of these are 0."""
        names = self._bundle.index.task_names
        shares = posterior[best] if posterior[best].any() else np.ones(len(best), np.float32)
        weights = tuple((shares / shares.sum()).tolist())
        return Route(tuple(names[i] for i in best), weights, tuple(posterior.tolist()), candidates=names)

    def _decide(
        self, judge: Judge, pixels: NDArray[np.float32], findings: Sequence[Finding], routes: Sequence[Route]
    ) -> list[Routed]:
        """Run, of each image in doubt, both experts that are expected to lose least, and return what the judge is for."""
        names = self._bundle.index.task_names
        pairs = np.stack([np.argsort(finding.losses[:-1], kind="stable")[:2] for finding in findings])  # [n, 2]
        embeds = np.empty((len(pixels), 2, self._bundle.index.architecture.output_dim), np.float32)
        for task in np.unique(pairs):
            images, places = np.nonzero(pairs == task)
            embeds[images, places] = self._run(pixels[images], (names[task],), (1.0,))
        decided = []
        for finding, route, pair, both in zip(findings, routes, pairs, embeds, strict=True):
            typical = [judge.typicality(task, embed) for task, embed in zip(pair, both, strict=True)]
            scores = [judge.score(*values) for values in zip(typical, finding.posterior[pair], strict=True)]
            won = int(scores[1] > scores[0])
            task, other = names[pair[won]], names[pair[1 - won]]
            if judge.accepts(float(finding.confidence), typical[won]):
                loss, group = float(finding.losses[pair[won]]), self._router.group_of(task)
                judged = replace(route, tasks=(task,), weights=(1.0,), expected_loss=loss, runner_up=other, group=group)
                embed: NDArray[np.float32] | None = both[won]
            else:
                judged = replace(
                    route, tasks=(), weights=(), expected_loss=float(finding.losses[-1]), runner_up=task, group=None
                )
                embed = finding.plain
            decided.append(Routed(replace(judged, stage="experts"), embed))
        return decided

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
