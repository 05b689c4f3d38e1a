"""What run times say beyond their median: percentiles, spread, and intervals that stay honest when neighboring runs resemble
each other.

Intervals come from a circular block bootstrap (Politis and Romano 1992): runs are drawn with replacement in blocks of about
sqrt(n) neighbors, so slow swings of the machine widen them as they should. Runs of one round are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.profile.report import Latency, Ratio

_RESAMPLES = 1000
LEAST_RUNS = 6  # fewer cannot give a 95% interval of a median: 2 * 0.5 ** 5 > 0.05
_DRIFT_RUNS = 8  # at least two in a quarter
_BOUNDS = (2.5, 97.5)  # percent
_CHUNK = 1 << 20  # values drawn at once


def latency(seconds: Sequence[float]) -> Latency:
    """Return percentiles and interval of at least one run time, in seconds."""
    p50, p90, p95, p99 = (float(np.percentile(seconds, p)) for p in (50, 90, 95, 99))
    quarter = len(seconds) // 4
    drift = float(np.median(seconds[-quarter:]) / np.median(seconds[:quarter])) if len(seconds) >= _DRIFT_RUNS else None
    bounds = interval(resampled_medians([seconds])[:, 0]) if len(seconds) >= LEAST_RUNS else None
    return Latency(p50, p90, p95, p99, bounds, drift, tuple(round(value, 7) for value in seconds))


def ratio(seconds: Sequence[float], against: Sequence[float]) -> Ratio:
    """Return the ratio of the medians of two kinds whose i-th runs were neighbors."""
    low, high = np.percentile(np.divide(seconds, against), (25, 75))
    bounds = None
    if len(seconds) >= LEAST_RUNS:
        medians = resampled_medians([seconds, against])
        bounds = interval(medians[:, 0] / medians[:, 1])
    return Ratio(float(np.median(seconds) / np.median(against)), (float(low), float(high)), bounds)


def interval(statistics: NDArray[np.float64]) -> tuple[float, float]:
    """Return the middle 95% of a statistic's bootstrap values."""
    low, high = np.percentile(statistics, _BOUNDS)
    return float(low), float(high)


def enough(*samples: Sequence[float]) -> bool:
    """Return whether each sample has the runs that an interval needs."""
    return all(len(sample) >= LEAST_RUNS for sample in samples)


def resampled_medians(samples: Sequence[Sequence[float]], seed: int = 0) -> NDArray[np.float64]:
    """Return `[resamples, kinds]` medians of `kinds` samples of the same n runs, drawn in the same blocks.

    Samples that were not measured together want calls, and seeds, of their own.
    """
    values = np.asarray(samples, np.float64)  # [kinds, n]
    n = values.shape[1]
    length = max(1, round(n**0.5))
    random = np.random.default_rng(seed)
    parts = []
    rows = max(1, _CHUNK // (n * len(values)))
    for first in range(0, _RESAMPLES, rows):
        starts = random.integers(0, n, (min(rows, _RESAMPLES - first), -(-n // length), 1))
        drawn = ((starts + np.arange(length)) % n).reshape(len(starts), -1)[:, :n]  # [rows, n]
        parts.append(np.median(values[:, drawn], axis=2).T)
    return np.concatenate(parts)
