"""A whole profile, phase by phase, into a report that is valid at every moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import count, islice
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.json_record import read_record
from mingle_edge_runtime.check.golden import read_golden
from mingle_edge_runtime.errors import EdgeError, ImageError
from mingle_edge_runtime.experts.byte_size import budget_bytes
from mingle_edge_runtime.images.decoding import Picture, Pictures, pictures
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.arithmetic import measure_arithmetic
from mingle_edge_runtime.ort.machine import machine_record
from mingle_edge_runtime.ort.processor_time import ProcessorTime, processor_time
from mingle_edge_runtime.ort.providers import resolve_providers
from mingle_edge_runtime.ort.session import onnxruntime
from mingle_edge_runtime.profile import report as records
from mingle_edge_runtime.profile.baselines import BUILDERS, SWITCHING, Setting, check_baselines
from mingle_edge_runtime.profile.distribution import latency, ratio
from mingle_edge_runtime.profile.interleaving import (
    Requests,
    Run,
    interleave,
    memory_before,
    memory_now,
    model_kinds,
    seconds_of,
    warm_up,
    warm_up_rounds,
)
from mingle_edge_runtime.profile.operators import trace_graphs, traced_runs
from mingle_edge_runtime.profile.report import ProfileReport, ProfileSettings, TrafficRun
from mingle_edge_runtime.profile.sweep import SweepSetting, Value, plan_sweep, sweep_axis, sweep_runs
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.scope import RoutedScope
from mingle_edge_runtime.serving.edge_model import EdgeModel

BATCH_SIZES = (1, 4, 16)
_MOST_IMAGES = 64  # kept in memory and taken in turn
_LEAST_ROUNDS = 8
_DRIFT = 1.1  # of any kind's times, worth a note
_LEAST_PROCESSOR_TIME = 1.0  # seconds of all cores together, counted in hundredths, for shares to say something
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the phase, its runs done and their total."""


class ProfileInterrupted(KeyboardInterrupt):
    """Ctrl-C during a profile."""

    def __init__(self, report: ProfileReport) -> None:
        super().__init__()
        self.report = report
        """what was measured before"""


def profile(
    path: str | PathLike[str],
    images: Pictures | None = None,
    *,
    runs: int = 50,
    against: Sequence[str] = ("dense",),
    switch_every: int = 1,
    operators: bool = False,
    sweep: Mapping[str, Sequence[Value]] | None = None,
    expert_budget: int | str | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    low_memory: bool = False,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    cool_down: float = 0.0,
    progress: Progress | None = None,
) -> ProfileReport:
    """Measure what a bundle costs on this machine, and return the report: times in seconds, memory in bytes.

    images: taken in turn, the bundle's golden images when None; latencies are of preprocessed images.
    runs: timed runs of each kind at batch 1, and about as many images at the other batch sizes.
    against: baselines of `BASELINES` to run interleaved.
    switch_every: requests after which the named task changes.
    operators: trace where the time goes.
    sweep: values by axis of `AXES`, none for sensible ones; see `plan_sweep`.
    expert_budget, providers, threads, low_memory: as in `EdgeModel.open`.
    cool_down: seconds of rest before each phase, for machines that slow down when they get hot.
    progress: called with the phase, its runs done and their total.

    "named" tells the task, "routed" finds the route. "open" is the first in this process; the system may have the files in
    its cache.

    Raises `EdgeError` before any work where the settings do not fit, `ProfileInterrupted` with the report on Ctrl-C.
    """
    if min(runs, switch_every, *batch_sizes) < 1 or not 0 <= cool_down < float("inf"):
        raise EdgeError(
            f"runs is {runs}, switch_every {switch_every}, batch_sizes {list(batch_sizes)}: all must be at least 1; "
            f"cool_down is {cool_down}, must be a number of seconds"
        )
    imported = seconds_of(onnxruntime)
    bundle = Bundle.open(Path(path))
    check_baselines(against, bundle)
    budget = budget_bytes(expert_budget)
    plan = plan_sweep(sweep or {}, bundle, threads, budget, low_memory)
    batch = _first_images(bundle, images)
    requests = Requests(len(bundle.index.tasks), switch_every)
    setting = Setting(bundle, requests, resolve_providers(providers), threads)
    settings = ProfileSettings(
        runs,
        threads,
        tuple(setting.providers),
        len(batch),
        tuple(sorted({1, *batch_sizes})),
        tuple(against),
        switch_every,
        budget,
        low_memory,
        float(cool_down),
    )
    measurement = _Measurement(setting, settings, progress, {"import_onnxruntime": imported})
    try:
        measurement.run(batch, plan, operators)
    except KeyboardInterrupt as error:
        raise ProfileInterrupted(measurement.report(complete=False)) from error
    return measurement.report(complete=True)


@dataclass
class _Measurement:
    """The phases of one profile, and the report's members as they come."""

    setting: Setting
    settings: ProfileSettings
    progress: Progress | None
    seconds: dict[str, float]
    times: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    memory: dict[str, records.Memory] = field(default_factory=dict)
    residence: dict[str, records.Residence] = field(default_factory=dict)
    operators: dict[str, records.Trace] = field(default_factory=dict)
    traffic: list[TrafficRun] = field(default_factory=list)
    experts: records.ExpertTotals | None = None
    router: tuple[records.RouterStage, ...] | None = None
    sweep: list[records.SweepRow] = field(default_factory=list)
    machine: records.Machine = field(default_factory=lambda: read_record(records.Machine, machine_record()))
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    processor_time: ProcessorTime | None = field(default_factory=processor_time)

    def run(self, images: list[Picture], plan: Sequence[Sequence[SweepSetting]], operators: bool) -> None:
        """Measure everything, in an order that keeps the bundle's own memory free of what it is compared with."""
        setting, settings, requests = self.setting, self.settings, self.setting.requests
        started = time.perf_counter()
        pixels = preprocess(images, setting.bundle.index.preprocess)
        self.seconds["preprocess_per_image"] = (time.perf_counter() - started) / len(images)
        self.memory["imported"] = memory_before()
        # What the first session of a process pays, whichever that is: code, kernels, the provider. It is nobody's.
        self.seconds["start_onnxruntime"] = seconds_of(measure_arithmetic, setting.providers)
        self.memory["before"] = memory_before()
        started = time.perf_counter()
        with EdgeModel.open(
            setting.bundle.root,
            expert_budget=settings.expert_budget,
            providers=setting.providers,
            threads=setting.threads,
            low_memory=settings.low_memory,
        ) as model:
            opened = self.seconds["open"] = time.perf_counter() - started
            self.memory["opened"] = memory_now()
            self._routed_runs(model, pixels)
            kinds = model_kinds(model, requests)
            warm_up(kinds, pixels, 1, requests, self._phase("warm-up", len(kinds) * warm_up_rounds(requests)))
            self.memory["steady"] = memory_now()
            self.residence["bundle"] = records.Residence(opened, self.memory["steady"].since(self.memory["before"]))
            for name in settings.against:
                kinds[name] = self._build(name, pixels)
            self._latency(kinds, pixels)
            stats = model.stats()
            self.experts = records.ExpertTotals(*(getattr(stats, member.name) for member in fields(records.ExpertTotals)))
            if model.scope.routed is not None:
                self._router_stages(model.scope.routed, pixels)
        del model, kinds
        if operators:
            tick = self._phase("operators", traced_runs(setting, settings.runs))
            trace_graphs(setting, pixels, settings.runs, self.operators, tick)
        for axis in plan:
            tick = self._phase(f"sweep {axis[0].axis}", sweep_runs(axis, requests, settings.runs))
            sweep_axis(axis, setting.providers, pixels, requests, settings.runs, self.sweep, tick)

    def report(self, complete: bool) -> ProfileReport:
        """Return what was measured so far."""
        times = {size: {kind: values for kind, values in by_kind.items() if values} for size, by_kind in self.times.items()}
        batches = {
            size: records.Batch(size, {kind: latency(values) for kind, values in by_kind.items()}, self._ratios(by_kind))
            for size, by_kind in times.items()
            if by_kind
        }
        single = batches.pop(1, records.Batch(1, {}, {}))
        switches = {
            kind: switch
            for kind in ("named", *SWITCHING)
            if (switch := self.setting.requests.switch(times.get(1, {}).get(kind, [])))
        }
        return ProfileReport(
            records.FORMAT,
            records.FORMAT_VERSION,
            complete,
            self.started,
            _identity(self.setting.bundle),
            self.settings,
            self.machine,
            records.OnceSeconds(**self.seconds),
            single.latency,
            single.ratios,
            switches,
            tuple(batches.values()),
            self.memory,
            self.residence,
            self.operators,
            tuple(self.traffic),
            self.experts,
            tuple(self.sweep),
            (*_route_notes(self.traffic), *_drift_notes(single.latency)),
            _contention(self.processor_time),
            self.router,
        )

    def _ratios(self, times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, records.Ratio]]:
        own = [kind for kind in times if kind not in BUILDERS]
        return {
            baseline: {kind: ratio(times[kind], times[baseline]) for kind in own}
            for baseline in self.settings.against
            if baseline in times
        }

    def _phase(self, name: str, total: int) -> Callable[[], None]:
        """Return, after a rest, a function that reports one more of the phase's `total` runs done."""
        time.sleep(self.settings.cool_down)
        done = count(1)

        def tick() -> None:
            if self.progress:
                self.progress(name, next(done), total)

        return tick

    def _routed_runs(self, model: EdgeModel, pixels: NDArray[np.float32]) -> None:
        """Record routed runs alone from the first after opening on: `runs` of them, or one of each image."""
        self.traffic.append(_routed_run(model, pixels[:1]))
        self.seconds["first_run"] = self.traffic[0].seconds
        self.memory["first_run"] = memory_now()
        runs = max(self.settings.runs, len(pixels))
        tick = self._phase("traffic", runs - 1)
        for i in range(1, runs):
            self.traffic.append(_routed_run(model, pixels[i % len(pixels)][None]))
            tick()
        self.memory["routed"] = memory_now()

    def _build(self, name: str, pixels: NDArray[np.float32]) -> Run:
        """Open a baseline, warm it up, and record what that took."""
        requests = self.setting.requests
        before = memory_before()
        started = time.perf_counter()
        run = BUILDERS[name](self.setting)
        opened = time.perf_counter() - started
        warm_up({name: run}, pixels, 1, requests, self._phase(f"open {name}", warm_up_rounds(requests)))
        self.residence[name] = records.Residence(opened, memory_now().since(before))
        return run

    def _latency(self, kinds: dict[str, Run], pixels: NDArray[np.float32]) -> None:
        runs = self.settings.runs
        for size in self.settings.batch_sizes:
            rounds = runs if size == 1 else max(_LEAST_ROUNDS, runs // size)
            times = self.times[size] = {}
            tick = self._phase(f"batch {size}", rounds * len(kinds))
            interleave(kinds, pixels, dict.fromkeys(kinds, size), rounds, times, tick)

    def _router_stages(self, scope: RoutedScope, pixels: NDArray[np.float32]) -> None:
        """Time every stage of the router, and tell how many of the routed runs needed it."""
        router = self.setting.bundle.index.router
        names = [stage.name for stage in router.stages] if router else []
        times: dict[str, list[float]] = {name: [] for name in names}
        tick = self._phase("router", self.settings.runs)
        for i in range(self.settings.runs + 1):  # the first opens what no image needed so far
            steps = scope.run_stages(pixels[i % len(pixels)][None])
            for name in names:
                times[name].append(seconds_of(lambda steps=steps: next(steps)))
            if i:
                tick()
        settled = [sum(run.stage == name for run in self.traffic) / len(self.traffic) for name in names]
        self.router = tuple(
            records.RouterStage(name, float(np.median(times[name][1:])), 1 - sum(settled[:i]), settled[i])
            for i, name in enumerate(names)
        )


def _first_images(bundle: Bundle, images: Pictures | None) -> list[Picture]:
    if images is None:
        return list(read_golden(bundle)["images"])
    batch = [image for _, image in islice(pictures(images), _MOST_IMAGES)]
    if not batch:
        raise ImageError("there is no image to profile with: give at least one, or none for the bundle's own")
    return batch


def _identity(bundle: Bundle) -> records.ProfiledBundle:
    index = bundle.index
    return records.ProfiledBundle(
        bundle.root.name,
        index.scope,
        index.precision,
        index.expert_precision,
        index.task_names,
        index.top_k,
        {task.name: task.expert_bytes for task in index.tasks},
        bundle.digest,
    )


def _contention(began: ProcessorTime | None) -> records.Contention | None:
    """Return who else used the cores since `began`."""
    now = processor_time()
    if began is None or now is None or (spent := now.since(began)).total < _LEAST_PROCESSOR_TIME:
        return None
    others = max(0.0, spent.busy - spent.own)
    return records.Contention(round(others / spent.total, 4), round(spent.stolen / spent.total, 4))


def _routed_run(model: EdgeModel, pixels: NDArray[np.float32]) -> TrafficRun:
    """Route and run one image `[1, 3, S, S]`."""
    routes: list[Route] = []
    before = model.stats()
    seconds = seconds_of(lambda: routes.extend(model.scope.embed(pixels)[1]))
    after = model.stats()
    return TrafficRun(
        seconds,
        routes[0].tasks,
        after.hits - before.hits,
        after.misses - before.misses,
        after.evictions - before.evictions,
        after.bytes_loaded - before.bytes_loaded,
        after.resident_bytes,
        after.stall_seconds - before.stall_seconds,
        routes[0].stage,
    )


def _route_notes(traffic: Sequence[TrafficRun]) -> list[str]:
    plain = sum(not run.tasks for run in traffic)
    if not plain:
        return []
    return [
        f"{plain} of {len(traffic)} routed runs used no expert, as no task claims the image: their time is that of the plain "
        "backbone; give --images of the tasks"
    ]


def _drift_notes(latency: Mapping[str, records.Latency]) -> list[str]:
    drifts = {kind: times.drift for kind, times in latency.items() if times.drift is not None}
    kind = max(drifts, key=drifts.__getitem__, default=None)
    if kind is None or drifts[kind] <= _DRIFT:
        return []
    return [
        f"the last quarter of the {kind} runs took {drifts[kind]:.2f} times as long as the first: the machine may be getting "
        "hot or busy; try a cool-down, or fewer other programs"
    ]
