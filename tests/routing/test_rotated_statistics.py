"""Statistics of fewer features that tell the same: routers fitted to them give the same scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mingle_edge.routing.router import fit_router
from mingle_edge.routing.statistics import Covariance, RouterStatistics, rotated

SEEDS, VARIED = 6, 3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 16), st.integers(2, 4), st.integers(120, 300))
def test_scores_are_those_of_all_features(seed: int, tasks: int, features: int) -> None:
    random = np.random.default_rng(seed)
    scales = np.exp(random.standard_normal(features))
    images = [
        (random.standard_normal((SEEDS, VARIED, features)) + random.standard_normal(features)) * scales for _ in range(tasks)
    ]
    statistics = [RouterStatistics.from_features(of_task.astype(np.float32)) for of_task in images]
    fewer, scale, shrinkage = rotated(statistics)
    assert len(fewer[0].mean) == sum(len(s.factor) for s in statistics) + tasks < features
    whole = fit_router(statistics)
    turned = fit_router(fewer, covariance=Covariance.pooled(fewer, scale, shrinkage))
    for own, other in zip(statistics, fewer, strict=True):
        expected, near = whole.scores(own.images(np.arange(SEEDS)))
        scores, nearness = turned.scores(other.images(np.arange(SEEDS)))
        spread = np.ptp(expected)
        np.testing.assert_allclose(
            scores - scores.mean(axis=1, keepdims=True), expected - expected.mean(axis=1, keepdims=True), atol=1e-4 * spread
        )
        np.testing.assert_allclose(nearness, near, atol=1e-4 * spread)


def test_few_features_stay_as_they_are() -> None:
    random = np.random.default_rng(0)
    statistics = [RouterStatistics.from_features(random.standard_normal((20, 3, 8)).astype(np.float32)) for _ in range(2)]
    fewer, scale, shrinkage = rotated(statistics)
    assert fewer == statistics
    covariance = Covariance.pooled(statistics)
    np.testing.assert_array_equal(scale, covariance.scale)
    assert shrinkage == covariance.shrinkage
