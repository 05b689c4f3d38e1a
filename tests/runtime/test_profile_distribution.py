"""What run times are said to mean, against samples whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge_runtime.profile.distribution import interval, latency, ratio, resampled_medians
from mingle_edge_runtime.profile.interleaving import Requests

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
