"""One setting changed at a time: what threads, batch size, top-k, precision and budget each do.

Every value of an axis is compared with the axis' first, interleaved run by run, the two open at once and no more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.errors import EdgeError
from mingle_edge_runtime.experts.budget import check_budget
from mingle_edge_runtime.ort.machine import machine_record
from mingle_edge_runtime.profile.distribution import latency, ratio
from mingle_edge_runtime.profile.interleaving import (
    Requests,
    Run,
    interleave,
    memory_before,
    memory_now,
    model_kinds,
    warm_up,
    warm_up_rounds,
)
from mingle_edge_runtime.profile.report import Memory, SweepRow
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.scope import RoutedScope
from mingle_edge_runtime.serving.edge_model import EdgeModel

AXES = ("threads", "batch", "top-k", "precision", "budget")
Value: TypeAlias = int | str | os.PathLike[str] | None
"""Of an axis: a number, another bundle's folder (precision), or no budget."""
_EXAMPLES = {"precision": "name other bundles, as in precision=OTHER", "budget": "name them, as in budget=all,64MB"}
_BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class SweepSetting:
    """What one row of a sweep runs with."""

    axis: str
    value: str
    bundle: Bundle
    threads: int | None
    budget: int | None
    low_memory: bool
    batch: int = 1
    top_k: int | None = None
    """experts per image or layer; None: what the bundle says, and a named task beside it"""


def plan_sweep(
    axes: Mapping[str, Sequence[Value]], bundle: Bundle, threads: int | None, budget: int | None, low_memory: bool
) -> list[list[SweepSetting]]:
    """Return the settings of each axis, the one that the others are compared with first.

    axes: values by axis; an axis without values gets sensible ones.

    Raises `EdgeError` where an axis is unknown, has fewer than two different values, is fixed at the same time, or has a value
    that does not fit; `BundleError` where a bundle to compare with cannot be opened, `BudgetError` where a budget is too small
    for a run.
    """
    plan = []
    for axis, given in axes.items():
        if axis not in AXES:
            raise EdgeError(f"there is no axis {axis!r} to sweep; choose from {', '.join(AXES)}")
        fixed = {"threads": threads, "budget": budget}.get(axis)
        if fixed is not None:
            raise EdgeError(f"{axis} is fixed at {fixed} and swept at the same time: leave one of them out")
        values = list(given) or _defaults(axis, bundle)
        if axis == "precision":
            values = [bundle.root, *values]
        if len(set(map(str, values))) < max(2, len(values)):
            shown = ", ".join("all" if value is None else str(value) for value in values)
            what = _EXAMPLES.get(axis, f"name them, as in {axis}=1,2")
            raise EdgeError(f"sweeping {axis} needs at least two different values, has {shown}: {what}")
        base = SweepSetting(axis, "", bundle, threads, budget, low_memory)
        plan.append([_setting(base, value) for value in values])
        for setting in plan[-1]:
            index = setting.bundle.index
            check_budget(
                setting.budget, {task.name: task.expert_bytes for task in index.tasks}, (), setting.top_k or index.top_k
            )
    return plan


def sweep_axis(
    settings: Sequence[SweepSetting],
    providers: Sequence[str],
    pixels: NDArray[np.float32],
    requests: Requests,
    runs: int,
    rows: list[SweepRow],
    tick: Callable[[], None],
) -> None:
    """Append a row for each setting of one axis to `rows`. tick: called after each run, `sweep_runs` times."""
    first, *others = settings
    first_kinds, first_memory = open_setting(first, providers, pixels, requests, tick)
    pooled: dict[str, list[float]] = {kind: [] for kind in first_kinds}
    compared = []
    try:
        for setting in others:
            kinds, memory = open_setting(setting, providers, pixels, requests, tick)
            times = _pairs(first_kinds, kinds, (first.batch, setting.batch), pixels, runs, tick)
            for kind, (base, _) in times.items():
                pooled[kind] += base
            latencies = {kind: latency(own) for kind, (_, own) in times.items()}
            ratios = {kind: ratio(own, base) for kind, (base, own) in times.items()}
            compared.append(SweepRow(setting.axis, setting.value, latencies, ratios, memory))
            del kinds  # before the next is opened
    finally:  # interrupted, what was compared before is kept
        if compared:
            latencies = {kind: latency(values) for kind, values in pooled.items()}
            rows.extend([SweepRow(first.axis, first.value, latencies, {}, first_memory), *compared])


def sweep_runs(settings: Sequence[SweepSetting], requests: Requests, runs: int) -> int:
    """Return the number of times that `sweep_axis` calls its `tick`."""
    kinds = 1 if settings[0].top_k is not None else 2
    return kinds * (len(settings) * warm_up_rounds(requests) + 2 * runs * (len(settings) - 1))


def _defaults(axis: str, bundle: Bundle) -> list[Value]:
    tasks = bundle.index.tasks
    if axis == "threads":
        return list(_doubling(machine_record()["usable_cores"] or 1))
    if axis == "batch":
        return list(_BATCHES)
    if axis == "top-k":
        return list(_doubling(len(tasks)))
    if axis == "budget":
        sizes = sorted((task.expert_bytes for task in tasks), reverse=True)
        least = sum(sizes[: bundle.index.top_k])
        half = max(least, sum(sizes) // 2)
        return [None, *(size for size in dict.fromkeys((half, least)) if size)]
    return []


def _doubling(last: int) -> tuple[int, ...]:
    """Return 1, 2, 4 ... and `last`."""
    return tuple(sorted({1 << i for i in range(last.bit_length()) if 1 << i <= last} | {last}))


def _setting(base: SweepSetting, value: Value) -> SweepSetting:
    axis, setting = base.axis, replace(base, value="all" if value is None else str(value))
    if axis == "precision":
        return replace(setting, bundle=_comparable(base.bundle, Path(str(value))))
    if axis == "budget" and value is None:
        return setting
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EdgeError(f"{axis} is swept over {value}: its values must be whole numbers of at least 1")
    if axis == "top-k" and value > len(base.bundle.index.tasks):
        raise EdgeError(f"top-k is swept over {value}, the bundle has {len(base.bundle.index.tasks)} tasks: name smaller ones")
    change: dict[str, Any] = {axis.replace("-", "_"): value}
    return replace(setting, **change)


def _comparable(bundle: Bundle, path: Path) -> Bundle:
    """Open the bundle at `path`. Raises `EdgeError` where tasks or image size differ."""
    other = Bundle.open(path)
    if other.index.task_names != bundle.index.task_names or other.index.preprocess != bundle.index.preprocess:
        raise EdgeError(
            f"{path} has other tasks or another preprocessing than {bundle.root}: compare exports of one merged model"
        )
    return other


def open_setting(
    setting: SweepSetting, providers: Sequence[str], pixels: NDArray[np.float32], requests: Requests, tick: Callable[[], None]
) -> tuple[dict[str, Run], Memory]:
    """Open what one setting runs, warm it up, and return it with the memory that it took.

    With a `top_k` runs are routed alone, and in the image scope every image takes its most probable tasks, so that all mix.
    """
    before = memory_before()
    bundle, index = setting.bundle, setting.bundle.index
    if setting.top_k is not None:
        router = replace(index.router, judge=None) if index.router else None
        bundle = replace(bundle, index=replace(index, top_k=setting.top_k, router=router))
    budget, threads, low_memory = setting.budget, setting.threads, setting.low_memory
    model = EdgeModel.open(bundle, expert_budget=budget, providers=providers, threads=threads, low_memory=low_memory)
    kinds = model_kinds(model, requests)
    if setting.top_k is not None:
        routed = model.scope.routed
        kinds = {"routed": kinds["routed"] if routed is None else partial(_run_mixed, routed, setting.top_k)}
    warm_up(kinds, pixels, setting.batch, requests, tick)
    return kinds, memory_now().since(before)


def _run_mixed(scope: RoutedScope, top_k: int, pixels: NDArray[np.float32], request: int) -> list[Route]:
    """Run every image with the experts of its most probable tasks, whether a task claims it or not, and return their routes."""
    routes = []
    for route in scope.route(pixels):
        probable = sorted((route.posterior_by_task() or {}).items(), key=lambda item: -item[1])[:top_k]
        tasks, shares = zip(*probable, strict=True)
        routes.append(replace(route, tasks=tasks, weights=tuple(share / sum(shares) for share in shares)))
    scope.embed_routed(pixels, routes)
    return routes


def _pairs(
    first: Mapping[str, Run],
    other: Mapping[str, Run],
    sizes: tuple[int, int],
    pixels: NDArray[np.float32],
    runs: int,
    tick: Callable[[], None],
) -> dict[str, tuple[list[float], list[float]]]:
    """Return seconds per image by kind, of the first setting and of the other."""
    kinds = {f"{side} {kind}": run for side, runs_of in enumerate((first, other)) for kind, run in runs_of.items()}
    times: dict[str, list[float]] = {}
    interleave(kinds, pixels, {name: sizes[int(name[0])] for name in kinds}, runs, times, tick)
    per_image = {name: [value / sizes[int(name[0])] for value in seconds] for name, seconds in times.items()}
    return {kind: (per_image[f"0 {kind}"], per_image[f"1 {kind}"]) for kind in first}
