"""The 95% confidence interval of a difference of accuracies, so that nobody reads more into a few images than they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

Z = 1.959964  # of the normal distribution, two-sided 95%


@dataclass(frozen=True)
class Interval:
    """An estimate between its bounds."""

    estimate: float
    low: float
    high: float


def mean_paired_difference(pairs: Sequence[tuple[int, int, int]]) -> Interval:
    """Return the mean over samples of the share that only the first of two got right less that of the second.

    pairs: per sample how many only the first got right, how many only the second, and how many there were. The interval is
    Wald's with half a unit added to each cell of the table of a sample (Agresti and Min, Statistics in Medicine 24, 2005,
    729-740), which holds its level for few and for equal ones, too; samples are independent.
    """
    centers, variances = [], []
    for first, second, count in pairs:
        added = count + 2
        centers.append((first - second) / added)
        variances.append((first + second + 1 - (first - second) ** 2 / added) / added**2)
    estimate = sum((first - second) / count for first, second, count in pairs) / len(pairs)
    middle, half = sum(centers) / len(pairs), Z * sqrt(sum(variances)) / len(pairs)
    return Interval(estimate, max(-1.0, middle - half), min(1.0, middle + half))
