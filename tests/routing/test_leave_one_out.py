"""Leave-one-out in closed form against leaving one out, and the bound that rests on it."""

from dataclasses import replace

import numpy as np
import pytest
from correlated_tasks import exactly, images, scatter
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.routing.leave_one_out import left_out_distances, left_out_scores
from mingle_edge.routing.router import fit_router
from mingle_edge.routing.statistics import Covariance, RouterStatistics, oas_shrinkage


def left_out(parts, weight):
    """By dense algebra from the images that remain: task, seed, inverse covariance of unscaled features, means of tasks.

    Scale and shrinkage are those of all seeds.
    """
    degrees = sum(len(part) - 1 for part in parts)
    pooled = sum(map(scatter, parts)) / degrees
    scale = np.sqrt(np.diag(pooled) + 1e-6 * np.diag(pooled).mean())
    correlation = pooled / np.outer(scale, scale)
    shrinkage = oas_shrinkage(np.trace(correlation), (correlation**2).sum(), len(scale), degrees)
    for t, part in enumerate(parts):
        for i in range(len(part)):
            rest = [np.delete(part, i, axis=0) if s == t else other for s, other in enumerate(parts)]
            remaining = weight * (1 - shrinkage) * sum(map(scatter, rest)) / (degrees - 1)
            inverse = np.linalg.inv(remaining + shrinkage * np.diag(scale**2))
            yield t, i, inverse, np.stack([other.mean((0, 1)) for other in rest])


@given(st.integers(0, 999), st.sampled_from([1, 4]), st.sampled_from([5, 60]))
def test_scores_of_left_out_seeds_equal_those_of_a_router_without_them(seed, each, F):
    parts = images(seed, each=each, F=F)
    closed_form = dict(left_out_scores([exactly(part) for part in parts]))
    for t, i, inverse, means in left_out(parts, 1.0):
        towards = inverse @ means.T  # [F, T]
        scores = parts[t][i] @ towards - (means.T * towards).sum(0) / 2
        # Scores are defined up to what all tasks have in common.
        np.testing.assert_allclose(
            closed_form[t][i] - closed_form[t][i][:, :1], scores - scores[:, :1], rtol=1e-8, atol=1e-8 * np.abs(scores).max()
        )


@given(st.integers(0, 999), st.sampled_from([1, 4]), st.sampled_from([5, 60]), st.sampled_from([0.9, 1.0]))
def test_distances_of_left_out_seeds_equal_those_of_a_router_without_them(seed, each, F, weight):
    """Of what is projected onto the space of the means, orthogonally under the inverse covariance."""
    parts = images(seed, each=each, F=F)
    statistics = [exactly(part) for part in parts]
    closed_form = dict(left_out_distances(statistics, Covariance.pooled(statistics), weight))
    for t, i, inverse, means in left_out(parts, weight):
        root = np.linalg.cholesky(inverse).T
        basis, _ = np.linalg.qr((root @ (means - means.mean(0)).T)[:, :-1])  # [F, T - 1]
        away = (parts[t][i][:, None] - means) @ root.T @ basis  # [v, T, T - 1]
        np.testing.assert_allclose(closed_form[t][i], (away**2).sum(2).min(1), rtol=1e-5)


@pytest.mark.parametrize("count", [3, 5])
def test_images_unlike_few_seeds_are_still_claimed(count):
    """Far more features than seeds: seeds lie near their mean and new images of the task do not."""
    parts = [part[:, :1].astype(np.float32) for part in images(4, tasks=10, count=60, F=400, apart=10.0)]
    statistics = [RouterStatistics.from_features(part[:count]) for part in parts]
    router, by_drawing = fit_router(statistics), fit_router([replace(s, coordinates=None) for s in statistics])
    new = [router.posterior(part[count:, 0].astype(np.float64)) for part in parts]
    assert np.mean([(posterior.argmax(1) == t).mean() for t, (posterior, _) in enumerate(new)]) > 0.9
    claimed = [np.mean([(confidence >= r.confidence_bound).mean() for _, confidence in new]) for r in (router, by_drawing)]
    assert claimed[0] > 0.95
    assert claimed[1] < 0.85
