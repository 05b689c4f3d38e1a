"""Statistics without some seeds against statistics of the others alone, and the images that come back from them."""

import numpy as np
from correlated_tasks import exactly, images, scatter
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.routing.statistics import RouterStatistics


def decomposed(features):
    """Statistics in double precision with the whole scatter in its factor, and coordinates about the mean, as stored."""
    count, each, F = features.shape
    centered = (features - features.mean((0, 1))).reshape(-1, F) / np.sqrt(each)
    left, singular, right = np.linalg.svd(centered, full_matrices=False)
    some = singular > 1e-9 * singular[0]
    return RouterStatistics(
        features.mean((0, 1)), singular[some, None] * right[some], count, left[:, some].reshape(count, each, -1)
    )


@given(st.data(), st.integers(0, 999), st.sampled_from([1, 4]), st.sampled_from([5, 40]))
def test_statistics_without_seeds_are_those_of_the_others(data, seed, each, F):
    features = images(seed, tasks=1, count=7, each=each, F=F)[0]
    leaving = np.array(sorted(data.draw(st.sets(st.integers(0, 6), min_size=1, max_size=6))))
    rest = np.delete(features, leaving, axis=0)
    without = decomposed(features).without(leaving)
    assert without.count == len(rest)
    np.testing.assert_allclose(without.mean, rest.mean((0, 1)), rtol=1e-5, atol=1e-5)
    expected = scatter(rest)
    np.testing.assert_allclose(
        without.factor.T @ without.factor, expected, atol=1e-4 * max(np.abs(expected).max(), np.abs(scatter(features)).max())
    )


@given(st.integers(0, 999))
def test_kept_seeds_leave_what_was_made_of_fewer(seed):
    """As they are stored, with 99.9% of the scatter."""
    features = images(seed, tasks=1, count=12, each=5, F=8)[0].astype(np.float32)
    without = RouterStatistics.from_features(features).without(np.array([0, 3, 11]))
    rest = np.delete(features, [0, 3, 11], axis=0).astype(np.float64)
    deviation = rest.std((0, 1))
    np.testing.assert_allclose(without.mean / deviation, rest.mean((0, 1)) / deviation, atol=0.03)
    lost = (without.factor.T @ without.factor - scatter(rest)) / np.outer(deviation, deviation)
    assert np.linalg.norm(lost) <= 0.02 * np.linalg.norm(scatter(rest) / np.outer(deviation, deviation))


def test_the_images_of_seeds_come_back_each_with_its_variations():
    features = images(1, tasks=1, count=6, each=3, F=9)[0]
    statistics = exactly(features)
    np.testing.assert_allclose(statistics.images(np.array([4, 1])), features[[4, 1]].reshape(6, 9), rtol=1e-9)


def test_statistics_of_some_features_are_those_of_these_features():
    features = images(2, tasks=1, count=6, each=3, F=9)[0]
    chosen = np.array([7, 2, 3])
    some = exactly(features).columns(chosen)
    np.testing.assert_allclose(some.mean, features[..., chosen].mean((0, 1)))
    np.testing.assert_allclose(some.factor.T @ some.factor, scatter(features[..., chosen]), rtol=1e-9)
    np.testing.assert_allclose(some.images(np.arange(6)), features[..., chosen].reshape(-1, 3), rtol=1e-9)
