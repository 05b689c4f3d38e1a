"""Two reports side by side: what changed, and whether that is beyond the noise of both.

Reports come from different processes, often from different days, and a machine is never twice the same. Trust a ratio to a
baseline first, which ran interleaved with it: what slows the machine slows both. Times alone also show what else the machine
was doing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.profile.distribution import enough, interval, resampled_medians
from mingle_edge_runtime.profile.report import Batch, Latency, Memory, ProfileReport

Verdict: TypeAlias = Literal["faster", "slower", "as dense", "more", "less", "unchanged", "measured once", "too few runs"]
LEAST_CHANGE = 0.02
"""Of a time or ratio: intervals say what a machine did during each profile, not how two processes differ."""
LEAST_MEMORY = 0.02, 4 << 20
"""Of memory: a share and bytes, both to be exceeded, as allocators and page sizes vary by as much."""
_SEEDS = 1, 2  # the two reports are drawn independently
_UNEXPLAINED = {"load_average"}  # of the machine: differs always; reported where it is high


@dataclass(frozen=True)
class Figure:
    """One figure in both reports."""

    name: str
    unit: Literal["seconds", "times", "bytes"]
    before: float
    after: float
    change: float | None
    """after / before; None where before is 0"""
    interval: tuple[float, float] | None
    """95% confidence interval of `change`"""
    verdict: Verdict
    """"as dense": a time that changed, while its ratio to dense did not: the machine, not the bundle"""


@dataclass(frozen=True)
class Comparison:
    """Every figure of two reports, and what else differs."""

    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]
    """what differs besides, and may explain it"""


def compare(before: ProfileReport, after: ProfileReport) -> Comparison:
    """Compare every figure that both reports have."""
    figures = [*_timed("", before, after)]
    later = {batch.batch: batch for batch in after.batches}
    for old in before.batches:
        if new := later.get(old.batch):
            figures += _timed(f"batch {old.batch}: ", old, new)
    rows = {(row.axis, row.value): row for row in after.sweep}
    for row in before.sweep:
        if other := rows.get((row.axis, row.value)):
            figures += _latencies(f"{row.axis} {row.value}: ", row.latency, other.latency).values()
    figures += _once(before, after)
    for name in _both(before.residence, after.residence):
        figures += _memory(f"memory of {name}", before.residence[name].memory, after.residence[name].memory)
    return Comparison(tuple(figures), tuple(_warnings(before, after)))


def _timed(prefix: str, old: ProfileReport | Batch, new: ProfileReport | Batch) -> Iterator[Figure]:
    """Yield kinds against the baselines of both sides, then times; one that moved together with dense's says so."""
    ratios = {}
    for baseline in _both(old.ratios, new.ratios):
        for kind in _both(old.ratios[baseline], new.ratios[baseline]):
            sides = [[side.latency[kind].seconds, side.latency[baseline].seconds] for side in (old, new)]
            ratios[kind, baseline] = _figure(f"{prefix}{kind} / {baseline}", "times", *sides)
    yield from ratios.values()
    for kind, figure in _latencies(prefix, old.latency, new.latency).items():
        control = ratios.get((kind, "dense"))
        together = control is not None and control.verdict == "unchanged" and figure.verdict in ("slower", "faster")
        yield replace(figure, verdict="as dense") if together else figure


def _latencies(prefix: str, old: Mapping[str, Latency], new: Mapping[str, Latency]) -> dict[str, Figure]:
    """Return the figures of the kinds that both sides have, by kind."""
    return {kind: _figure(f"{prefix}{kind}", "seconds", [old[kind].seconds], [new[kind].seconds]) for kind in _both(old, new)}


def _both(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return the names that both sides have, in the order of the first."""
    return [name for name in old if name in new]


def _figure(
    name: str, unit: Literal["seconds", "times"], old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]
) -> Figure:
    """Compare a median, or the ratio of two medians, of each side."""
    sides = [np.array([[np.median(sample) for sample in side]]) for side in (old, new)]
    before, after = (float(_quotient(side)[0]) for side in sides)
    bounds = None
    if enough(*old, *new):
        drawn = [_quotient(resampled_medians(side, seed)) for side, seed in zip((old, new), _SEEDS, strict=True)]
        bounds = interval(drawn[1] / drawn[0])
    change = after / before
    verdict: Verdict = "unchanged"
    if bounds is None:
        verdict = "too few runs"
    elif not bounds[0] <= 1 <= bounds[1] and abs(change - 1) > LEAST_CHANGE:
        verdict = "slower" if change > 1 else "faster"
    return Figure(name, unit, before, after, change, bounds, verdict)


def _quotient(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `[n]` of `[n, 1]` medians, or of `[n, 2]` the first over the second."""
    quotient: NDArray[np.float64] = medians[:, 0] / medians[:, 1] if medians.shape[1] == 2 else medians[:, 0]
    return quotient


def _once(before: ProfileReport, after: ProfileReport) -> Iterator[Figure]:
    for field in fields(before.seconds):
        old, new = getattr(before.seconds, field.name), getattr(after.seconds, field.name)
        if old is not None and new is not None:
            yield Figure(field.name.replace("_", " "), "seconds", old, new, new / old, None, "measured once")


def _memory(name: str, before: Memory, after: Memory) -> Iterator[Figure]:
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old is not None and new is not None:
            share, size = LEAST_MEMORY
            real = abs(new - old) > size and abs(new - old) > share * abs(old)
            verdict: Verdict = ("more" if new > old else "less") if real else "unchanged"
            yield Figure(f"{name}, {field.name}", "bytes", old, new, new / old if old else None, None, verdict)


def _warnings(before: ProfileReport, after: ProfileReport) -> Iterator[str]:
    for what in ("bundle", "machine", "settings"):
        old, new = getattr(before, what), getattr(after, what)
        for field in fields(old):
            values = getattr(old, field.name), getattr(new, field.name)
            if values[0] != values[1] and field.name not in _UNEXPLAINED:
                yield f"{what} differs: {field.name} {_shown(values[0])} before, {_shown(values[1])} after"
    for when, report in (("before", before), ("after", after)):
        cores = report.machine.usable_cores or 1
        load = report.machine.load_average[0] if report.machine.load_average else 0.0
        if load > cores / 2:
            yield f"{when}: the machine had a load of {load:.1f} on {cores} cores when the profile began"
        if not report.complete:
            yield f"{when}: the profile was interrupted"
        yield from (f"{when}: {note}" for note in report.notes)


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
