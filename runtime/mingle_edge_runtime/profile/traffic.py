"""What the experts do over time: the counters of a model from one routed run to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.experts.budget import ExpertStats
from mingle_edge_runtime.profile.interleaving import seconds_of
from mingle_edge_runtime.profile.report import ExpertTotals, TrafficRun
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.serving.edge_model import EdgeModel


def record_traffic(
    model: EdgeModel, pixels: NDArray[np.float32], runs: int, traffic: list[TrafficRun], tick: Callable[[], None]
) -> None:
    """Append `runs` routed runs to `traffic`, of the images that are next in turn."""
    for i in range(len(traffic), len(traffic) + runs):
        traffic.append(_routed_run(model, pixels[i % len(pixels)][None]))
        tick()


def totals(stats: ExpertStats) -> ExpertTotals:
    """Return the counters that a report keeps."""
    return ExpertTotals(*(getattr(stats, field.name) for field in fields(ExpertTotals)))


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
    )
