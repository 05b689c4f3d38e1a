"""What run times are said to mean, and what `compare` calls a change: against samples whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.cli.profile.terminal import profile_lines
from mingle_edge_runtime import EdgeError
from mingle_edge_runtime.errors import RegressionError
from mingle_edge_runtime.profile import Comparison, Figure, ProfileReport, compare
from mingle_edge_runtime.profile.distribution import interval, latency, ratio, resampled_medians
from mingle_edge_runtime.profile.interleaving import Requests
from mingle_edge_runtime.profile.report import Batch, Contention, Memory, SweepRow

MEMORY = Memory(100 << 20, 60 << 20, 40 << 20)


@pytest.fixture(scope="module")
def measured(profile_of) -> ProfileReport:
    """A real report, on a machine that claims to be idle."""
    report, _ = profile_of("image")
    return replace(report, notes=(), machine=replace(report.machine, load_average=(0.0, 0.0, 0.0)), contention=None)


def sample(median: float, seed: int, runs: int = 40, noise: float = 0.1) -> list[float]:
    """Run times around a median."""
    return list(median * np.exp(np.random.default_rng(seed).normal(0, noise, runs)))


def with_times(report: ProfileReport, named: Sequence[float], dense: Sequence[float]) -> ProfileReport:
    """The report with these times everywhere."""
    latencies = {"named": latency(named), "dense": latency(dense)}
    ratios = {"dense": {"named": ratio(named, dense)}}
    row = SweepRow("threads", "2", {"named": latency(named)}, {}, MEMORY)
    return replace(report, latency=latencies, ratios=ratios, batches=(Batch(4, latencies, ratios),), sweep=(row,))


def verdicts(comparison: Comparison) -> dict[str, str]:
    """By name of the figure."""
    return {figure.name: figure.verdict for figure in comparison.figures}


def figure(comparison: Comparison, name: str) -> Figure:
    """The one of that name."""
    return next(item for item in comparison.figures if item.name == name)


TIMED = ["named", "dense", "named / dense", "batch 4: named", "batch 4: dense", "batch 4: named / dense", "threads 2: named"]


def test_a_report_equals_itself(measured) -> None:
    comparison = compare(measured, measured)
    assert set(verdicts(comparison).values()) == {"unchanged", "measured once"}
    assert all(figure.change in (1, None) for figure in comparison.figures)
    assert comparison.warnings == ()


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_change(measured, seed: int) -> None:
    before = with_times(measured, sample(1.2, 4 * seed), sample(1, 4 * seed + 1))
    after = with_times(measured, sample(1.2, 4 * seed + 2), sample(1, 4 * seed + 3))
    by_name = verdicts(compare(before, after))
    assert [by_name[name] for name in TIMED] == ["unchanged"] * len(TIMED)


def test_a_slower_expert_is_told_from_a_slower_machine(measured) -> None:
    before = with_times(measured, sample(1.2, 0), sample(1, 1))
    expert = compare(before, with_times(measured, sample(1.5, 2), sample(1, 3)))
    assert figure(expert, "named / dense").verdict == figure(expert, "batch 4: named / dense").verdict == "slower"
    assert (figure(expert, "named").verdict, figure(expert, "dense").verdict) == ("slower", "unchanged")
    machine = compare(before, with_times(measured, sample(1.8, 2), sample(1.5, 3)))
    assert (figure(machine, "named").verdict, figure(machine, "dense").verdict) == ("as dense", "slower")
    assert figure(machine, "named / dense").verdict == "unchanged"
    faster = compare(with_times(measured, sample(1.8, 2), sample(1.5, 3)), before)
    assert figure(faster, "threads 2: named").verdict == "faster"


def test_a_change_comes_with_its_interval(measured) -> None:
    before, after = with_times(measured, sample(1, 0), sample(1, 1)), with_times(measured, sample(1.5, 2), sample(1, 3))
    change = figure(compare(before, after), "named")
    assert change.change == pytest.approx(np.median(sample(1.5, 2)) / np.median(sample(1, 0)), rel=1e-5)
    assert change.interval is not None
    assert change.interval[0] < 1.5 < change.interval[1]
    assert change.interval[0] < change.change < change.interval[1]


def test_a_certain_but_tiny_change_is_within_what_processes_differ(measured) -> None:
    before = with_times(measured, sample(1, 0, noise=1e-5), sample(1, 1, noise=1e-5))
    after = with_times(measured, sample(1.01, 2, noise=1e-5), sample(1, 3, noise=1e-5))
    change = figure(compare(before, after), "named")
    assert change.interval is not None
    assert change.interval[0] > 1
    assert change.verdict == "unchanged"


def test_few_runs_allow_no_verdict(measured) -> None:
    few = with_times(measured, [1.0, 2, 3], [1.0, 2, 3])
    assert figure(compare(few, few), "named / dense").verdict == "too few runs"


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "unchanged"), (1.01, "unchanged"), (1.2, "more"), (0.8, "less")])
def test_memory_changes_beyond_what_allocators_vary(measured, factor: float, verdict: str) -> None:
    before, after = (
        replace(measured, residence={"bundle": replace(measured.residence["bundle"], memory=memory)})
        for memory in (MEMORY, replace(MEMORY, anonymous=int(factor * MEMORY.anonymous)))
    )
    by_name = verdicts(compare(before, after))
    assert by_name["memory of bundle, anonymous"] == verdict
    assert by_name["memory of bundle, file"] == "unchanged"


class TestRegressions:
    """What a job that must end where a bundle got worse is told."""

    def test_the_bundle_alone_can_regress(self, measured) -> None:
        before = with_times(measured, sample(1.2, 0), sample(1, 1))
        machine = compare(before, with_times(measured, sample(1.8, 2), sample(1.5, 3)))
        assert figure(machine, "dense").verdict == "slower"
        assert [item.name for item in machine.regressions()] == ["threads 2: named"]  # which no baseline ran beside
        expert = compare(before, with_times(measured, sample(1.5, 2), sample(1, 3)))
        assert {item.name for item in expert.regressions()} >= {"named", "named / dense", "batch 4: named / dense"}
        assert compare(with_times(measured, sample(1.5, 2), sample(1, 3)), before).regressions() == []

    def test_each_is_named_and_the_others_are_not(self, measured) -> None:
        before, after = (with_times(measured, sample(value, seed), sample(1, 9)) for value, seed in ((1.2, 0), (1.5, 2)))
        with pytest.raises(RegressionError) as caught:
            compare(before, after).check(10)
        message = str(caught.value)
        assert message.startswith("5 figures got worse beyond the noise and by more than 10%: named / dense 1.2")
        assert "; named 1.2" in message
        assert ", 95% interval 1." in message
        assert "; dense " not in message

    @pytest.mark.parametrize(("percent", "regresses"), [(0, True), (5, True), (19, True), (21, False), (100, False)])
    def test_more_than_the_percentage_counts(self, measured, percent: float, regresses: bool) -> None:
        grown = Memory(int(1.2 * MEMORY.resident), int(1.2 * MEMORY.anonymous), MEMORY.file)
        reports = [
            replace(measured, residence={name: replace(measured.residence["bundle"], memory=memory)})
            for name in ("bundle", "dense")
            for memory in (MEMORY, grown)
        ]
        comparison = compare(*reports[:2])
        names = ["memory of bundle, resident", "memory of bundle, anonymous"]
        assert [item.name for item in comparison.regressions(percent)] == names * regresses
        if regresses:
            with pytest.raises(RegressionError, match=r"2 figures .*: memory of bundle, resident 1\.200 x; memory of"):
                comparison.check(percent)
        else:
            comparison.check(percent)
        assert compare(*reports[2:]).regressions(0) == []  # the baseline's memory

    def test_what_has_too_few_runs_does_not_pass(self, measured) -> None:
        few = replace(with_times(measured, [1.0, 2, 3], [1.0, 2, 3]), residence={})
        with pytest.raises(EdgeError, match=r"no time in common with enough runs .* with --runs 6 or more") as caught:
            compare(few, few).check()
        assert not isinstance(caught.value, RegressionError)

    @pytest.mark.parametrize("percent", [-1.0, float("nan"), float("inf")])
    def test_a_percentage_that_cannot_be_is_refused(self, measured, percent: float) -> None:
        with pytest.raises(EdgeError, match="percent cannot be: give a number of at least 0"):
            compare(measured, measured).regressions(percent)

    def test_times_without_a_baseline_are_warned_of(self, measured) -> None:
        alone = replace(measured, ratios={})
        assert "times alone are compared: " in "\n".join(compare(measured, alone).warnings)
        assert compare(measured, measured).warnings == ()


@pytest.mark.parametrize(
    ("others", "stolen", "said"),
    [
        (0.0, 0.0, None),
        (0.06, 0.04, None),
        (0.5, 0.0, "the machine was busy: other programs took 50% of the 4 cores during the profile. Times are "),
        (
            0.01,
            0.3,
            "took 1% of the 4 cores during the profile, and the host of this virtual machine gave 30% to others. T",
        ),
    ],
)
def test_a_busy_machine_is_warned_of(measured, others: float, stolen: float, said: str | None) -> None:
    machine = replace(measured.machine, usable_cores=4, load_average=(9.0, 9.0, 9.0))
    report = replace(measured, machine=machine, contention=Contention(others, stolen))
    warnings = [warning for warning in compare(measured, report).warnings if "usable_cores" not in warning]
    shown = " ".join(profile_lines(report))
    if said is None:
        assert (report.busy, warnings) == (None, [])
        assert "busy" not in shown
    else:
        assert said in report.busy
        assert f"warning: {report.busy}" in shown
        assert warnings == [f"after: {report.busy}"]


def test_what_else_differs_is_said(measured) -> None:
    machine = replace(measured.machine, onnxruntime="1.20.1", cpu="other", instruction_sets=(), load_average=(9.0, 1.0, 1.0))
    other = replace(
        measured,
        machine=machine,
        settings=replace(measured.settings, threads=4),
        bundle=replace(measured.bundle, index_sha256="0" * 64),
        complete=False,
        notes=("it was hot",),
    )
    before = replace(measured, machine=replace(measured.machine, instruction_sets=("AVX2", "AVX-512")))
    warnings = "\n".join(compare(before, other).warnings)
    for part in (
        f"machine differs: onnxruntime {measured.machine.onnxruntime} before, 1.20.1 after",
        "machine differs: instruction_sets AVX2, AVX-512 before, none after",
        "settings differ: threads 1 before, 4 after",
        "bundle differs: index_sha256",
        "after: the machine had a load of 9.0",
        "after: the profile was interrupted",
        "after: it was hot",
    ):
        assert part in warnings
    assert "before: " not in warnings


TIMES = st.lists(st.floats(1e-6, 1e3), min_size=6, max_size=60)


@given(TIMES)
def test_a_latency_is_numpys_percentiles_and_an_interval_inside_the_sample(seconds: list[float]) -> None:
    summary = latency(seconds)
    assert [summary.p50, summary.p90, summary.p95, summary.p99] == pytest.approx(np.percentile(seconds, (50, 90, 95, 99)))
    assert summary.interval is not None
    assert min(seconds) <= summary.interval[0] <= summary.interval[1] <= max(seconds)
    assert summary.seconds == pytest.approx(seconds, abs=1e-7)


@given(TIMES, st.floats(0.1, 10))
def test_a_constant_factor_is_found_exactly_however_noisy_the_machine(seconds: list[float], factor: float) -> None:
    summary = ratio([factor * value for value in seconds], seconds)
    assert summary.interval is not None
    assert [summary.ratio, *summary.quartiles, *summary.interval] == pytest.approx([factor] * 5)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_intervals_hold_the_truth_about_as_often_as_they_say(correlation: float) -> None:
    random = np.random.default_rng(0)
    held, trials, runs = 0, 200, 60
    for _ in range(trials):
        noise = np.zeros((2, runs))
        step = random.normal(0, 0.1, (2, runs))
        for i in range(runs):
            noise[:, i] = (correlation * noise[:, i - 1] if i else 0) + step[:, i]
        summary = ratio(list(1.2 * np.exp(noise[0])), list(np.exp(noise[1])))
        assert summary.interval is not None
        held += summary.interval[0] <= 1.2 <= summary.interval[1]
    assert 0.87 <= held / trials <= 0.99


def test_slow_swings_widen_an_interval() -> None:
    random = np.random.default_rng(1)
    values = random.normal(1, 0.1, 100)
    swinging, shuffled = np.sort(values), random.permutation(values)
    widths = [np.subtract(*interval(resampled_medians([sample])[:, 0])[::-1]) for sample in (swinging, shuffled)]
    assert widths[0] > 1.5 * widths[1]


def test_too_few_runs_give_no_interval() -> None:
    assert latency([1.0] * 5).interval is None
    assert ratio([1.0] * 5, [1.0] * 5).interval is None
    assert latency([1.0] * 7).drift is None


def test_drift_compares_the_ends() -> None:
    assert latency([1.0, 1, 5, 5, 5, 5, 3, 3]).drift == 3.0


@given(st.integers(1, 9), st.integers(1, 9))
def test_requests_name_every_task_equally_often(tasks: int, every: int) -> None:
    requests = Requests(tasks, every)
    named = [requests.task(i) for i in range(2 * tasks * every)]
    assert named == [task for _ in range(2) for task in range(tasks) for _ in range(every)]
    assert [i for i in range(len(named)) if requests.switches(i)] == (
        list(range(every, len(named), every)) if tasks > 1 else []
    )


def test_a_switch_is_told_from_a_stay() -> None:
    summary = Requests(2, 3).switch([9.0, 1, 1, 5, 1, 1, 7, 1, 1])
    assert summary is not None
    assert (summary.switching, summary.staying, summary.slowest) == (6.0, 1.0, 9.0)
    assert Requests(2, 1).switch([1.0, 2.0, 2.0]).staying is None
    assert Requests(1, 1).switch([1.0, 2.0]) is None
