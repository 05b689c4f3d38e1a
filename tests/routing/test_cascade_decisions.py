"""Decisions of a cascade against a slow walk of each image alone, and expected losses against loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.routing.cascade import MOST_TYPICAL, Cascade, Judge, Stage, decide
from mingle_edge.routing.router import Router

F = (3, 5, 6)  # features of each stage


def cascade_of(random, T=4, stages=3, judged=True, groups=None):
    """Routers of random weights, so that every way through the stages is taken by some images."""

    def router(size):
        directions = random.standard_normal((size, T))
        return Router(
            center=random.standard_normal(size),
            weight=random.standard_normal((size, T)),
            bias=random.standard_normal(T),
            directions=0.1 * directions,
            shifts=random.standard_normal(T),
            owners=np.arange(T),
            spread=0.5 * np.eye(T),
            temperature=1.5,
            trust=(0.5, 1.0),
            confidence_bound=0.0,
        )

    names = ("pixels", "blocks", "embedding")[:stages]
    built = tuple(Stage(name, int(name == "blocks"), router(size), 0.15) for name, size in zip(names, F, strict=False))
    losses = random.random((T, T + 1)) * np.array([1.0] * T + [0.3])
    losses[np.arange(T), np.arange(T)] = 0
    judge = Judge(random.standard_normal(T), 0.5 + random.random(T), 0.5, unsure=0.8, bound=-0.8) if judged else None
    return Cascade(built, losses, np.arange(T) if groups is None else groups, judge)


def walk(cascade, features, logits):
    """Choice and stage of one image, as docs say it in words; features of every stage, the largest logit of every expert."""
    T, last = len(cascade.losses), len(cascade.stages) - 1
    for number, stage in enumerate(cascade.stages):
        posterior, confidence = (found[0] for found in stage.router.posterior(features[number][None]))
        expected = expected_by_hand(cascade, posterior)
        best = min(range(T + 1), key=lambda j: expected[j])
        sure, claimed = expected[best] <= stage.doubt, confidence >= stage.router.confidence_bound
        if number < last:
            if sure and claimed:
                return best, number
            continue
        if cascade.judge is None or T < 2 or not claimed or (sure and confidence >= cascade.judge.unsure):
            return (best if claimed else T), number
    judge = cascade.judge
    two = sorted(range(T), key=lambda j: expected[j])[:2]
    typicality = {j: (logits[j] - judge.typical[j]) / judge.deviation[j] for j in two}
    winner = max(two, key=lambda j: typicality[j] + judge.trust * np.log(posterior[j]))
    known = confidence + min(typicality[winner], MOST_TYPICAL) >= judge.bound
    return (winner if known else T), last + 1


def expected_by_hand(cascade, posterior):
    T = len(posterior)
    of_groups = {group: sum(posterior[t] for t in range(T) if cascade.groups[t] == group) for group in cascade.groups.tolist()}
    likeliest = max(sorted(of_groups), key=lambda group: of_groups[group])
    expected = [sum(posterior[t] * cascade.losses[t, j] for t in range(T)) for j in range(T + 1)]
    return [loss + 2 * (j < T and cascade.groups[j] != likeliest) for j, loss in enumerate(expected)]


def images_of(random, n, T):
    return [2 * random.standard_normal((n, size)) for size in F], 2 * random.standard_normal((n, T))


def runs(logits):
    return lambda numbers, tasks: np.take_along_axis(logits[numbers], tasks, axis=1)


@given(st.integers(0, 999), st.sampled_from([None, [0, 0, 1, 1], [0, 1, 0, 2], [0, 0, 0, 0]]))
def test_what_choices_are_expected_to_lose(seed, groups):
    random = np.random.default_rng(seed)
    cascade = cascade_of(random, groups=None if groups is None else np.array(groups))
    posterior = random.dirichlet(np.ones(4), size=6)
    expected = [expected_by_hand(cascade, row) for row in posterior]
    np.testing.assert_allclose(cascade.expected(posterior), expected, rtol=1e-12)


@given(st.integers(0, 999), st.integers(1, 3), st.booleans(), st.sampled_from([None, [0, 0, 1, 1]]))
def test_images_go_as_each_would_go_alone(seed, stages, judged, groups):
    random = np.random.default_rng(seed)
    cascade = cascade_of(random, stages=stages, judged=judged, groups=None if groups is None else np.array(groups))
    features, logits = images_of(random, 40, 4)
    found = decide(cascade, features[:stages], runs(logits))
    one_by_one = [walk(cascade, [of_stage[i] for of_stage in features], logits[i]) for i in range(40)]
    assert list(zip(found.choice.tolist(), found.stage.tolist(), strict=True)) == one_by_one


def test_every_way_through_the_stages_is_taken():
    random = np.random.default_rng(0)
    cascade = cascade_of(random)
    features, logits = images_of(random, 2000, 4)
    found = decide(cascade, features, runs(logits))
    assert set(found.stage.tolist()) == {0, 1, 2, 3}
    assert {4} < set(found.choice[found.stage == 2].tolist())  # plain backbone and experts
    assert {4} < set(found.choice[found.stage == 3].tolist())


@given(st.integers(0, 999))
def test_batch_mates_make_no_difference(seed):
    random = np.random.default_rng(seed)
    cascade = cascade_of(random)
    features, logits = images_of(random, 12, 4)
    together = decide(cascade, features, runs(logits))
    for i in range(12):
        alone = decide(cascade, [of_stage[i : i + 1] for of_stage in features], runs(logits[i : i + 1]))
        assert (alone.choice[0], alone.stage[0]) == (together.choice[i], together.stage[i])
        np.testing.assert_allclose(alone.posterior[0], together.posterior[i], rtol=1e-9)
        np.testing.assert_allclose(alone.confidence[0], together.confidence[i], rtol=1e-9)


def test_the_judge_runs_only_the_two_experts_that_lose_least_of_images_in_doubt():
    random = np.random.default_rng(1)
    cascade = cascade_of(random)
    features, logits = images_of(random, 300, 4)
    asked = []

    def largest(numbers, tasks):
        asked.append((numbers, tasks))
        return runs(logits)(numbers, tasks)

    found = decide(cascade, features, largest)
    ((numbers, tasks),) = asked
    np.testing.assert_array_equal(numbers, np.flatnonzero(found.stage == 3))
    np.testing.assert_array_equal(tasks, np.argsort(found.expected[numbers, :4], axis=1)[:, :2])


def test_without_a_judge_no_expert_runs():
    random = np.random.default_rng(2)
    features, _ = images_of(random, 50, 4)
    found = decide(cascade_of(random).without_judge(), features, None)
    assert found.stage.max() == 2


def test_the_plain_backbone_answers_where_it_loses_less():
    """Two tasks as likely: either expert ruins the other task's images, and none loses little of both."""
    base = cascade_of(np.random.default_rng(0), T=2, stages=1, judged=False)
    stage = base.stages[0]
    even = replace(stage.router, weight=np.zeros((3, 2)), bias=np.zeros(2), directions=np.zeros((3, 2)), shifts=np.zeros(2))
    stages = (replace(stage, router=replace(even, confidence_bound=-np.inf)),)
    for plain, choice, groups in ((0.1, 2, [0, 1]), (0.5, 0, [0, 1]), (0.5, 1, [0, 0])):
        losses = np.array([[0, 0.6, plain], [0.8, 0, plain]])
        found = decide(replace(base, stages=stages, losses=losses, groups=np.array(groups)), [np.ones((1, 3))], None)
        np.testing.assert_allclose(found.expected, [[0.4, 0.3 + 2 * groups[1], plain]])
        assert found.choice[0] == choice


@pytest.mark.parametrize("judged", [True, False])
def test_of_a_single_task_its_expert_answers(judged):
    random = np.random.default_rng(0)
    cascade = cascade_of(random, T=1, judged=judged)
    stages = tuple(replace(s, router=replace(s.router, confidence_bound=-np.inf)) for s in cascade.stages)
    features, logits = images_of(random, 5, 1)
    found = decide(replace(cascade, stages=stages), features, runs(logits))
    assert found.choice.tolist() == [0] * 5
    assert found.posterior.tolist() == [[1.0]] * 5
