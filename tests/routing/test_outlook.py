"""What is foretold of a router, on tasks of which two are hard to tell apart."""

import numpy as np
import pytest
from correlated_tasks import images
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mingle_edge.routing.calibration import left_out
from mingle_edge.routing.outlook import Outlook, area_under_curve, outlook, routers_without, routing_warnings
from mingle_edge.routing.router import fit_router
from mingle_edge.routing.statistics import RouterStatistics

LOSSES = np.array([[0.0, 0.4, 0.6, 0.1], [0.8, 0.0, 0.5, 0.2], [0.9, 0.9, 0.0, 0.3]])


def confusable(seed=0):
    """Three tasks, the first two of which overlap."""
    random = np.random.default_rng(seed)
    means = np.array([[0.0, 0, 0, 0], [1.5, 0, 0, 0], [-20, 0, 0, 0]])
    return [
        RouterStatistics.from_features(
            (mean + random.standard_normal((40, 1, 4)) + 0.1 * random.standard_normal((40, 3, 4))).astype(np.float32)
        )
        for mean in means
    ]


def test_where_left_out_seeds_go_and_what_is_lost_by_it():
    statistics = confusable()
    seen = outlook(statistics, ["a", "b", "c"], LOSSES, 0.02)
    guesses = left_out(statistics)
    routed = [[np.mean(guesses.scores.argmax(1)[guesses.tasks == own] == other) for other in range(3)] for own in range(3)]
    np.testing.assert_allclose(seen.routed, routed)
    assert 0.1 < seen.routed[0, 1] < 0.4
    assert seen.routed[2, 2] > 0.95
    np.testing.assert_allclose(seen.lost, [sum(routed[t][j] * LOSSES[t, j] for j in range(3)) for t in range(3)])
    np.testing.assert_array_equal(seen.lost_plain, LOSSES[:, -1])


def test_images_of_a_task_left_out_are_found_where_it_is_unlike_the_others():
    statistics = confusable()
    seen = outlook(statistics, ["a", "b", "c"], LOSSES, 0.05)
    assert seen.foreign[2] > 0.95  # far from both others
    assert seen.foreign[0] < 0.6  # much like the second
    areas = []
    for task, (router, known) in enumerate(routers_without(statistics, left_out(statistics), 0.05)):
        others = [s for t, s in enumerate(statistics) if t != task]
        np.testing.assert_array_equal(router.weight, fit_router(others).weight)
        _, unknown = router.posterior(statistics[task].images(np.arange(40)))
        areas.append(roc_auc_score([1] * len(known) + [0] * len(unknown), np.concatenate([known, unknown])))
    assert seen.auroc == pytest.approx(np.mean(areas))


def test_of_few_tasks_or_seeds_less_is_foretold():
    two = outlook(confusable()[:2], ["a", "b"], LOSSES[:2][:, [0, 1, 3]], 0.02)
    assert two.foreign is None
    assert two.auroc is None
    single = [RouterStatistics.from_features(part[:1].astype(np.float32)) for part in images(0)]
    assert outlook(single, ["a", "b", "c"], LOSSES, 0.02) is None


@given(
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30),
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30),
)
def test_the_area_under_the_curve_is_scikit_learns(higher, lower):
    expected = roc_auc_score([1] * len(higher) + [0] * len(lower), higher + lower)
    assert area_under_curve(np.array(higher), np.array(lower)) == pytest.approx(expected)


def foretold(routed, lost, plain):
    routed = np.array(routed)
    return Outlook(("a", "b", "c"), routed, np.array(lost), np.array(plain), (0.1, 0.0), None, None)


def test_a_warning_names_the_task_its_share_the_others_and_what_helps():
    seen = foretold([[0.7, 0.26, 0.04], [0.0, 1.0, 0.0], [0.0, 0.03, 0.97]], [0.12, 0.0, 0.02], [0.3, 0.2, 0.2])
    (warning,) = routing_warnings(seen)
    assert warning.startswith("task 'a': 30% of its seeds, left out, are routed to other tasks (26% to 'b')")
    assert "12% of its labels change by it;" in warning
    assert warning.endswith(
        "give more seeds, name the task when it is known, or put tasks that need not be told apart into one group"
    )


def test_a_task_that_the_plain_backbone_would_serve_better_is_named_too():
    seen = foretold([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.05, 0.0, 0.0], [0.04, 0.2, 0.2])
    (warning,) = routing_warnings(seen)
    assert "more than the 4% it would lose on the plain backbone" in warning


def test_tasks_that_are_told_apart_are_not_warned_of():
    assert routing_warnings(foretold(np.eye(3), [0.0, 0.0, 0.0], [0.1, 0.1, 0.0])) == []
