"""The image router against scikit-learn's discriminant analysis, and its append-only statistics."""

from dataclasses import replace

import numpy as np
import pytest
from correlated_tasks import images
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mingle_edge.routing.calibration import calibrated, left_out
from mingle_edge.routing.router import ALL_DIRECTIONS, DIRECTIONS, OWN_SHARE, fit_router, softmax
from mingle_edge.routing.statistics import Covariance, RouterStatistics, oas_shrinkage


def features(seed, tasks=3, count=40, F=12):
    return [part[:, 0].astype(np.float32) for part in images(seed, tasks=tasks, count=count, each=1, F=F, apart=2.0)]


def statistics(parts):
    return [RouterStatistics.from_features(part[:, None]) for part in parts]


@given(st.integers(0, 999), st.integers(2, 5))
def test_without_a_share_of_its_own_covariance_it_is_linear_discriminant_analysis_on_scaled_features(seed, tasks):
    parts = features(seed, tasks)
    centred = np.concatenate([part - part.mean(0) for part in parts]).astype(np.float64)
    degrees = sum(len(part) - 1 for part in parts)
    variance = (centred**2).sum(0) / degrees
    scale = np.sqrt(variance + 1e-6 * variance.mean())
    correlation = (centred / scale).T @ (centred / scale) / degrees
    shrinkage = oas_shrinkage(np.trace(correlation), (correlation**2).sum(), len(scale), degrees)

    x = np.concatenate(parts) / scale
    y = np.repeat(np.arange(tasks), [len(part) for part in parts])
    # lsqr with a given covariance estimate: scores from means and covariance alone, as ours.
    shrunk = (1 - shrinkage) * correlation + shrinkage * np.eye(len(scale))
    reference = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(tasks, 1 / tasks), covariance_estimator=_Fixed(shrunk))
    reference.fit(x, y)
    test = np.concatenate(features(seed + 1, tasks)).astype(np.float64)
    # The whole scatter as its factor: centred rows, none left out.
    exact = [RouterStatistics(part.mean(0), part - part.mean(0), len(part)) for part in parts]
    posterior, _ = fit_router(exact, own_share=0).posterior(test)
    np.testing.assert_allclose(posterior, reference.predict_proba(test / scale), atol=1e-3)


@given(st.integers(0, 999), st.integers(2, 5), st.sampled_from([0.1, 0.5]))
def test_scores_are_distances_under_each_tasks_own_covariance(seed, tasks, share):
    """Dense: a covariance per task, of its own scatter and the shrunk pooled one, inverted outright; no volume term."""
    parts = [(1 + t) * part for t, part in enumerate(features(seed, tasks))]  # of different spread, too
    exact = [RouterStatistics(part.mean(0), part - part.mean(0), len(part)) for part in parts]
    pooled = Covariance.pooled(exact)
    shrunk = (1 - pooled.shrinkage) * pooled.rows.T @ pooled.rows
    shrunk = (1 - share) * shrunk + pooled.shrinkage * np.eye(len(pooled.scale))
    test = np.concatenate(features(seed + 1, tasks)).astype(np.float64)
    scores = []
    for part in parts:
        own = (1 - pooled.shrinkage) * np.cov(part.astype(np.float64) / pooled.scale, rowvar=False)
        away = (test - part.mean(0)) / pooled.scale
        scores.append(-0.5 * (away @ np.linalg.inv(shrunk + share * own) * away).sum(1))
    expected = np.exp(np.array(scores) - np.max(scores, axis=0)).T
    posterior, _ = fit_router(exact, own_share=share).posterior(test)
    np.testing.assert_allclose(posterior, expected / expected.sum(1, keepdims=True), atol=1e-3)


def test_directions_of_many_tasks_stay_within_their_number():
    parts = statistics(features(0, tasks=4, count=90, F=80))
    assert fit_router(parts).directions.shape == (80, 4 * DIRECTIONS)
    many = fit_router(parts * 4)
    assert many.directions.shape == (80, ALL_DIRECTIONS)
    assert many.owners.tolist() == np.repeat(np.arange(16), ALL_DIRECTIONS // 16).tolist()


class _Fixed:
    """A covariance estimator that returns what it was given."""

    def __init__(self, covariance):
        self.covariance_ = covariance

    def fit(self, x):
        return self


def test_shrinkage_equals_scikit_learns_oas():
    x = features(0, tasks=1, count=25)[0].astype(np.float64)
    x -= x.mean(0)
    covariance = x.T @ x / len(x)
    _, expected = oas(x, assume_centered=True)
    shrinkage = oas_shrinkage(np.trace(covariance), (covariance**2).sum(), len(covariance), len(x))
    assert shrinkage == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 999), st.integers(1, 4))
def test_nearness_is_how_much_nearer_a_task_is_than_all_of_them(seed, tasks):
    """Dense: squared Mahalanobis distances, under what all tasks share and under that with their spread, inverted outright."""
    parts = features(seed, tasks=tasks)
    exact = [RouterStatistics(part.mean(0), part - part.mean(0), len(part)) for part in parts]
    pooled = Covariance.pooled(exact)
    within = (1 - OWN_SHARE) * (1 - pooled.shrinkage) * pooled.rows.T @ pooled.rows + pooled.shrinkage * np.eye(12)
    means = np.stack([s.mean for s in exact]).astype(np.float64) / pooled.scale
    test = np.concatenate(features(seed + 1)).astype(np.float64) / pooled.scale
    away = means - means.mean(0)
    everywhere = within + away.T @ away / tasks

    def distances(center, covariance):
        return (((test - center) @ np.linalg.inv(covariance)) * (test - center)).sum(1)

    from_all = distances(means.mean(0), everywhere)
    expected = from_all - np.min([distances(mean, within) for mean in means], axis=0)
    router = fit_router(exact)
    scores, nearness = router.scores(test * pooled.scale)
    np.testing.assert_allclose(nearness, expected, rtol=1e-6, atol=1e-7 * from_all.max())
    posterior = softmax(scores)
    np.testing.assert_array_equal(router.posterior(test * pooled.scale)[1], nearness)  # before it is calibrated
    trusting = replace(router, trust=(0.5, 2.0))
    sure = 1 - np.minimum(posterior.max(1), 1 - 1e-12)
    np.testing.assert_allclose(
        trusting.confidence(posterior, nearness), 0.5 * nearness - 2.0 * np.log(sure), rtol=1e-6, atol=1e-3
    )


@pytest.mark.parametrize("count", [3, 5])
def test_images_unlike_few_seeds_are_still_claimed(count):
    """Far more features than seeds: seeds lie near their mean and new images of the task do not."""
    parts = [part[:, :1].astype(np.float32) for part in images(4, tasks=10, count=60, F=400, apart=10.0)]
    known = [RouterStatistics.from_features(part[:count]) for part in parts]
    router = fit_router(known)
    by_left_out = calibrated(router, left_out(known), 0.02)
    seen = np.concatenate([by_left_out.posterior(part[:count, 0].astype(np.float64))[1] for part in parts])
    by_seen = replace(by_left_out, confidence_bound=float(np.quantile(seen, 0.02)))
    new = [by_left_out.posterior(part[count:, 0].astype(np.float64)) for part in parts]
    assert np.mean([(posterior.argmax(1) == t).mean() for t, (posterior, _) in enumerate(new)]) > 0.9
    claimed = [np.mean([(confidence >= r.confidence_bound).mean() for _, confidence in new]) for r in (by_left_out, by_seen)]
    assert claimed[0] > 0.95
    assert claimed[1] < 0.85


def test_more_rows_than_features_and_fewer_give_the_same_router():
    parts = features(4, tasks=2, count=60, F=6)
    few = statistics(parts)
    padded = [RouterStatistics(s.mean, np.concatenate([s.factor, np.zeros((40, 6), np.float32)]), s.count) for s in few]
    np.testing.assert_allclose(fit_router(few).weight, fit_router(padded).weight, rtol=1e-8)


def test_a_single_task_claims_every_image():
    router = fit_router(statistics(features(0, tasks=1)))
    posterior, confidence = router.posterior(100 * np.ones((2, 12)))
    assert (posterior == 1).all()
    assert (confidence >= router.confidence_bound).all()


def test_own_images_are_claimed_and_foreign_ones_are_not():
    parts = features(2, tasks=3)
    known = statistics(parts)
    router = calibrated(fit_router(known), left_out(known), 0.02)
    _, own = router.posterior(np.concatenate(parts).astype(np.float64))
    assert (own >= router.confidence_bound).mean() > 0.95
    _, foreign = router.posterior(np.concatenate(parts).astype(np.float64) * 50)
    assert (foreign < router.confidence_bound).mean() > 0.9


def test_constant_features_do_no_harm():
    parts = [np.concatenate([part, np.ones((len(part), 2), np.float32)], axis=1) for part in features(1)]
    posterior, confidence = fit_router(statistics(parts)).posterior(np.concatenate(parts).astype(np.float64))
    assert np.isfinite(posterior).all()
    assert np.isfinite(confidence).all()


def test_one_seed_without_variations_still_routes_by_distance():
    parts = [np.full((1, 4), value, np.float32) for value in (0.0, 1.0)]
    posterior, confidence = fit_router(statistics(parts)).posterior(np.array([[0.1] * 4, [0.9] * 4]))
    assert posterior.argmax(1).tolist() == [0, 1]
    assert np.isfinite(confidence).all()


@pytest.mark.parametrize(("count", "F"), [(30, 8), (8, 30)])
def test_the_factor_reproduces_the_scatter_per_seed(count, F):
    x = features(3, tasks=1, count=count, F=F)[0]
    seeds = count // 2  # each seed with one variation
    kept = RouterStatistics.from_features(x.reshape(seeds, 2, F))
    centred = x.astype(np.float64) - x.astype(np.float64).mean(0)
    scatter = centred.T @ centred * seeds / count
    scale = np.sqrt(np.diag(scatter))  # 99.9% is kept of features of unit variance
    lost = (scatter - kept.factor.T @ kept.factor) / np.outer(scale, scale)
    assert np.trace(lost) <= 1.001e-3 * F
    assert np.linalg.norm(lost) <= 2e-3 * np.linalg.norm(scatter / np.outer(scale, scale))
