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

from mingle_edge_runtime.errors import EdgeError, RegressionError
from mingle_edge_runtime.profile.baselines import BASELINES
from mingle_edge_runtime.profile.distribution import LEAST_RUNS, enough, interval, resampled_medians
from mingle_edge_runtime.profile.report import Batch, Latency, Memory, ProfileReport

Verdict: TypeAlias = Literal["faster", "slower", "as dense", "more", "less", "unchanged", "measured once", "too few runs"]
REGRESSION = 5.0
"""Percent by which a figure must get worse, beyond the noise, to be a regression, unless another number is asked for."""
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
    of_baseline: bool = False
    """whether it is what a baseline takes, not the bundle"""

    def told(self) -> str:
        """Return the change in words, as in `named / dense 1.250 x, 95% interval 1.221 to 1.279`."""
        change = "from none" if self.change is None else f"{self.change:.3f} x"
        bounds = f", 95% interval {self.interval[0]:.3f} to {self.interval[1]:.3f}" if self.interval else ""
        return f"{self.name} {change}{bounds}"


@dataclass(frozen=True)
class Comparison:
    """Every figure of two reports, and what else differs."""

    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]
    """what differs besides, and may explain it"""

    def regressions(self, percent: float = REGRESSION) -> list[Figure]:
        """Return the figures that got worse beyond the noise of both reports, and by more than `percent`.

        A time that moved together with dense's is none, nor what a baseline itself takes: the machine did that. Nor is a time
        that was measured once.

        Raises `EdgeError` where `percent` is below 0 or no number.
        """
        if not 0 <= percent < float("inf"):
            raise EdgeError(f"a regression of {percent} percent cannot be: give a number of at least 0, as in 5")
        worse = [figure for figure in self.figures if figure.verdict in ("slower", "more") and not figure.of_baseline]
        return [figure for figure in worse if figure.change is None or figure.change > 1 + percent / 100]

    def check(self, percent: float = REGRESSION) -> None:
        """Raise `RegressionError` naming every one of `regressions`, for a job that must end where there is one.

        Raises `EdgeError` where the reports have no time in common with enough runs to tell: nothing was checked then.
        """
        if worse := self.regressions(percent):
            named = "; ".join(figure.told() for figure in worse)
            count = "1 figure" if len(worse) == 1 else f"{len(worse)} figures"
            raise RegressionError(f"{count} got worse beyond the noise and by more than {percent:g}%: {named}")
        if all(figure.interval is None for figure in self.figures):
            raise EdgeError(
                "the reports have no time in common with enough runs to tell a change from noise: profile the same bundle "
                f"twice with --runs {LEAST_RUNS} or more, 50 unless you have a reason"
            )


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
        memory = [report.residence[name].memory for report in (before, after)]
        figures += _memory(f"memory of {name}", memory[0], memory[1], of_baseline=name in BASELINES)
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
    samples = {kind: ([old[kind].seconds], [new[kind].seconds]) for kind in _both(old, new)}
    figures = {kind: _figure(f"{prefix}{kind}", "seconds", *sides) for kind, sides in samples.items()}
    return {kind: replace(figure, of_baseline=kind in BASELINES) for kind, figure in figures.items()}


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


def _memory(name: str, before: Memory, after: Memory, of_baseline: bool) -> Iterator[Figure]:
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old is not None and new is not None:
            share, size = LEAST_MEMORY
            real = abs(new - old) > size and abs(new - old) > share * abs(old)
            verdict: Verdict = ("more" if new > old else "less") if real else "unchanged"
            change = new / old if old else None
            yield Figure(f"{name}, {field.name}", "bytes", old, new, change, None, verdict, of_baseline)


def _warnings(before: ProfileReport, after: ProfileReport) -> Iterator[str]:
    for what in ("bundle", "machine", "settings"):
        old, new = getattr(before, what), getattr(after, what)
        verb = "differ" if what == "settings" else "differs"
        for field in fields(old):
            values = getattr(old, field.name), getattr(new, field.name)
            if values[0] != values[1] and field.name not in _UNEXPLAINED:
                yield f"{what} {verb}: {field.name} {_shown(values[0])} before, {_shown(values[1])} after"
    if before.latency and after.latency and not ("dense" in before.ratios and "dense" in after.ratios):
        yield (
            "times alone are compared: the reports have no ratios to dense in common, so that a slower or busier machine looks "
            "like a slower bundle; profile both with --against dense"
        )
    for when, report in (("before", before), ("after", after)):
        cores = report.machine.usable_cores or 1
        load = report.machine.load_average[0] if report.machine.load_average else 0.0
        if report.busy:
            yield f"{when}: {report.busy}"
        elif report.contention is None and load > cores / 2:
            yield f"{when}: the machine had a load of {load:.1f} on {cores} cores when the profile began"
        if not report.complete:
            yield f"{when}: the profile was interrupted"
        yield from (f"{when}: {note}" for note in report.notes)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        value = tuple(f"{name} {member}" for name, member in value.items())
    text = ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
