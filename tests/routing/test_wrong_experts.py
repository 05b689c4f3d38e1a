"""What wrong experts are expected to cost, by hand, and what a merged model's index keeps of them."""

import json

import numpy as np
import pytest

from mingle_edge.routing.wrong_experts import WrongExperts, expected_losses, fault_in_routing

SEEN = (
    WrongExperts(0.2, {}, (3.0, 4.0)),
    WrongExperts(0.4, {"a": 0.6}, (5.0,)),
    WrongExperts(0.1, {"a": 0.5, "b": 0.2}, ()),
)


def test_what_was_never_run_is_taken_to_do_the_mean_harm_on_top_of_no_expert():
    excess = (0.2 + 0.4 + 0.1) / 3
    expected = [[0, 0.2 + excess, 0.2 + excess, 0.2], [0.6, 0, 0.4 + excess, 0.4], [0.5, 0.2, 0, 0.1]]
    np.testing.assert_allclose(expected_losses(["a", "b", "c"], SEEN), expected)


def test_of_some_tasks_only_experts_among_them_count():
    np.testing.assert_allclose(expected_losses(["b", "c"], SEEN[1:]), [[0, 0.5, 0.4], [0.2, 0, 0.1]])


def test_experts_that_help_are_no_reason_to_expect_help_of_others():
    seen = (WrongExperts(0.5), WrongExperts(0.9, {"a": 0.3}))
    np.testing.assert_allclose(expected_losses(["a", "b"], seen), [[0, 0.5, 0.5], [0.3, 0, 0.9]])


def test_where_nothing_is_known_everything_may_change():
    np.testing.assert_array_equal(expected_losses(["a", "b"], [WrongExperts()] * 2), [[0, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(expected_losses(["a"], [WrongExperts(0.3)]), [[0, 0.3]])


def test_what_changed_no_label_may_still_change_one_in_a_hundred():
    seen = (WrongExperts(0.0), WrongExperts(0.0, {"a": 0.0}))
    np.testing.assert_array_equal(expected_losses(["a", "b"], seen), [[0, 0.01, 0.01], [0.01, 0, 0.01]])


@pytest.mark.parametrize("seen", SEEN)
def test_a_record_comes_back(seen):
    record = json.loads(json.dumps({"seconds": 1.0} | seen.record()))
    assert fault_in_routing(record) is None
    assert WrongExperts.of_record(record) == seen
    assert WrongExperts.of_record({"seconds": 1.0}) == WrongExperts()


@pytest.mark.parametrize(
    ("routing", "fault"),
    [
        ([], "must be an object of largest_logits, without_expert, wrong_experts"),
        ({"more": 1}, "must be an object of"),
        ({"wrong_experts": []}, "wrong_experts must be an object"),
        ({"largest_logits": "12"}, "largest_logits a list"),
        ({"without_expert": float("nan")}, "a share is no number from 0 to 1"),
        ({"without_expert": True}, "a share is no number"),
        ({"without_expert": "0.1"}, "a share is no number"),
        ({"without_expert": 1.01}, "a share is no number from 0 to 1"),
        ({"wrong_experts": {"a": -0.1}}, "a share is no number from 0 to 1"),
        ({"wrong_experts": {"a": None}}, "a share is no number"),
        ({"largest_logits": [1.0, "2"]}, "largest_logits holds what is no number"),
        ({"largest_logits": [float("inf")]}, "largest_logits holds what is no number"),
        ({"largest_logits": [False]}, "largest_logits holds what is no number"),
    ],
)
def test_a_damaged_record_is_refused(routing, fault):
    assert fault in fault_in_routing({"routing": routing})
