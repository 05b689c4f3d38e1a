"""Temperature, calibration error and bound against the same by other means, and what they do for images not seen."""

import numpy as np
import pytest
from correlated_tasks import images
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from mingle_edge.routing.calibration import (
    FOLDS,
    bound,
    calibrated,
    calibration_error,
    fit_temperature,
    left_out,
)
from mingle_edge.routing.router import fit_router, softmax
from mingle_edge.routing.statistics import RouterStatistics


@given(st.integers(0, 999), st.floats(0.5, 30))
def test_the_temperature_is_that_of_the_least_surprise(seed, sharpness):
    random = np.random.default_rng(seed)
    tasks = random.integers(0, 4, 80)
    scores = sharpness * (np.eye(4)[tasks] + 0.8 * random.standard_normal((80, 4)))
    weights = random.random(80)

    def surprise(logarithm):
        return -weights @ log_softmax(scores / np.exp(logarithm), axis=1)[np.arange(80), tasks]

    best = minimize_scalar(surprise, bounds=np.log((0.25, 64.0)), method="bounded")
    step = np.log(64 / 0.25) / 112
    assert np.log(fit_temperature(scores, tasks, weights)) == pytest.approx(best.x, abs=step)


def test_the_calibration_error_of_a_handful():
    probabilities = np.array([1.0, 0.99, 0.97, 0.5, 0.51, 0.49, 0.2])
    right = np.array([True, True, False, True, False, False, False])
    # Bins of a fifteenth: three at the top, three about a half, one alone.
    top, half, low = abs(2.96 - 2), abs(1.5 - 1), abs(0.2 - 0)
    assert calibration_error(probabilities, right) == pytest.approx((top + half + low) / 7)
    assert calibration_error(np.array([]), np.array([], bool)) == 0
    assert calibration_error(np.ones(3), np.ones(3, bool)) == 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.floats(0, 0.5))
def test_the_bound_refuses_at_most_its_share(confidence, refused):
    confidence = np.array(confidence)
    assert (confidence < bound(confidence, refused)).sum() <= refused * len(confidence)
    assert bound(confidence, refused) in confidence


def tasks_of(seed, count, tasks=6, F=30):
    """Statistics of so many seeds, and as many other images of the same tasks `[n, F]`."""
    parts = [part.astype(np.float32) for part in images(seed, tasks=tasks, count=3 * count, each=2, F=F, apart=0.8)]
    known = [RouterStatistics.from_features(part[:count]) for part in parts]
    return known, [part[count:, 0].astype(np.float64) for part in parts]


def test_probabilities_of_new_images_are_honest():
    """Few seeds of many features: a router is sure of far more than it knows."""
    errors = []
    for seed in range(4):
        known, new = tasks_of(seed, 10, F=60)
        raw = fit_router(known)
        right = np.concatenate([raw.posterior(part)[0].argmax(1) == t for t, part in enumerate(new)])
        honest = calibrated(raw, left_out(known), 0.02)
        errors.append([calibration_error(r.posterior(np.concatenate(new))[0].max(1), right) for r in (raw, honest)])
    before, after = np.mean(errors, axis=0)
    assert after < 0.5 * before


@pytest.mark.parametrize("refused", [0.02, 0.2])
def test_of_new_images_about_the_share_asked_for_is_refused(refused):
    shares = []
    for seed in range(4):
        known, new = tasks_of(seed, 40)
        router = calibrated(fit_router(known), left_out(known), refused)
        shares.append((router.posterior(np.concatenate(new))[1] < router.confidence_bound).mean())
    assert np.mean(shares) == pytest.approx(refused, abs=0.02 + refused / 4)


@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("apart", [10.0, 40.0])
def test_tasks_far_apart_or_alone_have_a_confidence_that_float32_can_hold(tasks, apart):
    """All of their images are as certain as can be, which tells nothing of how much certainty varies."""
    parts = [part.astype(np.float32) for part in images(0, tasks=tasks, count=60, each=2, F=30, apart=apart)]
    known = [RouterStatistics.from_features(part[:20]) for part in parts]
    router = calibrated(fit_router(known), left_out(known), 0.02)
    _, confidence = router.posterior(np.concatenate([part[20:, 0] for part in parts]).astype(np.float64))
    assert np.abs(confidence).max() < 1e6
    assert (confidence < router.confidence_bound).mean() < 0.06


def test_every_seed_is_judged_by_a_router_that_never_saw_it():
    """Made anew without the seeds of a fold; coordinates are rounded, and so are scores."""
    parts = [part.astype(np.float32) for part in images(0, tasks=3, count=10, each=2, F=12, apart=2.0)]
    found = left_out([RouterStatistics.from_features(part) for part in parts])
    assert sorted(zip(found.tasks.tolist(), found.seeds.tolist(), found.varied.tolist(), strict=True)) == [
        (t, seed, varied) for t, part in enumerate(parts) for seed in range(len(part)) for varied in (False, True)
    ]
    for fold in range(FOLDS):
        rest = [np.delete(part, np.arange(len(part))[fold::FOLDS], axis=0) for part in parts]
        router = fit_router([RouterStatistics.from_features(part) for part in rest])
        for t, part in enumerate(parts):
            gone = np.arange(len(part))[fold::FOLDS]
            mine = (found.tasks == t) & np.isin(found.seeds, gone)
            scores, _ = router.scores(part[gone].reshape(-1, 12).astype(np.float64))
            expected, given_back = softmax(scores / 10), softmax(found.scores[mine] / 10)
            np.testing.assert_allclose(given_back, expected, atol=0.1)
            assert np.corrcoef(given_back.ravel(), expected.ravel())[0, 1] > 0.98  # scale and shrinkage stay those of all seeds


def test_weights_give_every_task_the_same():
    known, _ = tasks_of(1, 12, tasks=3)
    seen = left_out([known[0], known[1].without(np.arange(9)), known[2]])  # the second has no seed to spare
    weights = seen.weights()
    assert set(seen.tasks.tolist()) == {0, 2}
    assert [weights[seen.tasks == t].sum() for t in (0, 2)] == pytest.approx([0.5, 0.5])
    without = seen.without_task(0)
    assert set(without.tasks.tolist()) == {1}
    np.testing.assert_array_equal(without.scores, seen.scores[seen.tasks == 2][:, 1:])


def test_tasks_of_one_seed_leave_nothing_to_calibrate_by():
    assert left_out([RouterStatistics.from_features(part[:1].astype(np.float32)) for part in images(0)]) is None
