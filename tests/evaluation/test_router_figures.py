"""The report on a router, by hand on a handful of images."""

import numpy as np
import pytest

from mingle_edge.evaluation.router_figures import RoutedImages, router_report
from mingle_edge.routing.cascade import Cascade, Judge, Stage
from mingle_edge.routing.router import Router


def stage(name, temperature):
    return Stage(name, 0, Router(*[np.zeros((1, 2))] * 7, temperature=temperature), 0.1)


CASCADE = Cascade(
    (stage("pixels", 1.0), stage("embedding", 2.0)),
    np.zeros((2, 3)),
    np.arange(2),
    Judge(np.zeros(2), np.ones(2), 0.5, 0.0, -1.0),
)
FIRST = RoutedImages(
    0,
    np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]),
    np.array([4.0, 3.0, 1.0, 2.0]),
    np.array([0, 0, 1, 2]),
    np.array([0.0, 2.5, 1.0]),
    0.25,
    60.0,
)
SECOND = RoutedImages(1, np.array([[0.2, 0.8], [0.4, 0.6]]), np.array([5.0, 1.0]), np.array([0, 1]), None, None, 70.0)


def test_stages_settle_shares_of_tasks_that_weigh_the_same():
    report = router_report(CASCADE, ["a", "b"], [FIRST, SECOND])
    assert report.stages == pytest.approx({"pixels": 50.0, "embedding": 37.5, "experts": 12.5})
    assert report.plain == {"a": 60.0, "b": 70.0}


def test_honesty_before_and_after_the_temperature_of_the_stage_reached():
    report = router_report(CASCADE, ["a", "b"], [FIRST, SECOND])
    right = np.array([True, True, False, True, True, True])
    honest = np.array([0.9, 0.8, 0.7, 0.6, 0.8, 0.6])
    raw = honest.copy()
    warm = np.array([False, False, True, True, False, True])  # at the stage of temperature 2, or judged after it
    raw[warm] = honest[warm] ** 2 / (honest[warm] ** 2 + (1 - honest[warm]) ** 2)
    for name, probabilities in (("calibrated", honest), ("uncalibrated", raw)):
        bins = np.floor(probabilities * 15)
        gaps = [abs((probabilities - right)[bins == b].sum()) for b in set(bins)]
        assert report.calibration_error[name] == pytest.approx(100 * sum(gaps) / 6)


def test_foreign_images_are_those_of_tasks_left_out():
    report = router_report(CASCADE, ["a", "b"], [FIRST, SECOND])
    assert report.foreign_refused == {"a": 25.0}
    own, strange = np.array([4, 3, 1, 2, 5, 1]), np.array([0, 2.5, 1])
    pairs = [(o > s) + (o == s) / 2 for o in own for s in strange]
    assert report.foreign_auroc == pytest.approx(np.mean(pairs))
    alone = router_report(CASCADE, ["a", "b"], [SECOND])
    assert alone.foreign_auroc is None
    assert alone.foreign_refused == {}
