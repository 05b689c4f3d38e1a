"""Which stages a cascade gets, and what it does and does not depend on."""

import numpy as np
import pytest

from mingle_edge.routing.cascade import decide
from mingle_edge.routing.cascade_fit import GOING_ON, fit_cascade, group_numbers
from mingle_edge.routing.depth import choose_depth
from mingle_edge.routing.layout import PIXELS, Layout
from mingle_edge.routing.statistics import RouterStatistics
from mingle_edge.routing.wrong_experts import WrongExperts

LAYOUT = Layout(width=2, depths=2, dim=4)
NAMES = ["a", "b", "c", "d"]


def features_of(seed, apart, count=30, each=2, tasks=4):
    """Features `[n, v, F]` per task; `apart` says how far tasks are in pixels, in depth 0, in depth 1 and in the embedding."""
    random, centers = np.random.default_rng(seed), np.random.default_rng(99)
    parts = []
    for _ in range(tasks):
        columns = []
        for size, far in zip((8, 8, 8, 4), apart, strict=True):
            around = far * centers.standard_normal(size) + random.standard_normal((count, 1, size))
            columns.append(around + 0.2 * random.standard_normal((count, each, size)))
        rest = np.zeros((count, each, PIXELS - 8))
        parts.append(np.concatenate([columns[0], rest, *columns[1:]], axis=2).astype(np.float32))
    return parts


def seen(tasks=4, logits=12):
    random = np.random.default_rng(5)
    return [
        WrongExperts(0.3 + 0.05 * t, {NAMES[o]: 0.5 + 0.1 * o for o in range(t)}, tuple(random.normal(20, 2, logits).tolist()))
        for t in range(tasks)
    ]


def fitted(parts, order=None, logits=12, refused=0.02):
    order = list(range(len(parts))) if order is None else order
    known = [RouterStatistics.from_features(parts[t]) for t in order]
    blocks = choose_depth(known, LAYOUT)
    names, told = [NAMES[t] for t in order], [seen(logits=logits)[t] for t in order]
    return fit_cascade(known, LAYOUT, blocks, names, told, [None] * len(order), refused)


def decided(cascade, features, order=None):
    """Choices and stages of images `[n, F]`, experts by number before any reordering; logits are those of image and task."""
    order = np.arange(len(cascade.losses)) if order is None else np.array(order)
    logits = 20 + 3 * np.random.default_rng(1).standard_normal((len(features), 4))

    def largest(numbers, tasks):
        return logits[numbers[:, None], order[tasks]]

    found = decide(cascade, [features[:, own].astype(np.float64) for own in LAYOUT.of_stages(cascade)], largest)
    return np.append(order, -1)[found.choice], found.stage


@pytest.mark.parametrize(
    ("apart", "stages"),
    [
        ((4, 4, 4, 4), [("pixels", 0), ("embedding", 0)]),
        ((0.3, 4, 4, 4), [("pixels", 0), ("blocks", 0), ("embedding", 0)]),
        ((0.3, 0, 4, 0.1), [("pixels", 0), ("blocks", 1), ("embedding", 0)]),
        ((0.6, 0, 0, 3), [("pixels", 0), ("embedding", 0)]),
    ],
)
def test_stages_are_those_that_tell_tasks_apart(apart, stages):
    cascade = fitted(features_of(0, apart))
    assert [(stage.name, stage.blocks) for stage in cascade.stages] == stages
    expected = 0
    for stage, columns in zip(cascade.stages, LAYOUT.of_stages(cascade), strict=True):
        expected += {"pixels": PIXELS, "embedding": 4}.get(stage.name, 8 * (stage.blocks + 1))
        assert len(columns) == len(stage.router.weight) == expected


def test_doubtful_images_go_on_and_that_pays():
    apart = (1.2, 0, 0, 3)
    cascade = fitted(features_of(0, apart, count=60))
    new = features_of(1, apart, count=300, each=1)
    alone = np.mean(
        [
            (cascade.stages[0].router.posterior(part[:, 0][:, LAYOUT.columns(None)].astype(float))[0].argmax(1) == t).mean()
            for t, part in enumerate(new)
        ]
    )
    found = [decided(cascade, part[:, 0]) for part in new]
    right = np.mean([(choice == t).mean() for t, (choice, _) in enumerate(found)])
    went_on = np.mean([(stage > 0).mean() for _, stage in found])
    assert right > alone
    assert 0 < went_on < 2 * sum(GOING_ON)  # of new images somewhat more


def test_the_order_of_tasks_changes_no_decision():
    apart, order = (1.2, 0, 1.0, 2), [2, 0, 3, 1]
    parts = features_of(0, apart)
    new = np.concatenate(features_of(1, apart, count=100, each=1))[:, 0]
    one, other = fitted(parts), fitted(parts, order)
    choices, stages = decided(one, new)
    np.testing.assert_array_equal([len(s.router.weight) for s in one.stages], [len(s.router.weight) for s in other.stages])
    again, stages_again = decided(other, new, order)
    np.testing.assert_array_equal(choices, again)
    np.testing.assert_array_equal(stages, stages_again)
    assert len(set(stages.tolist())) > 1


def test_without_a_seed_to_spare_all_images_go_through():
    apart = (1.2, 0, 0, 2)
    known = [part[:1] for part in features_of(0, apart)]
    statistics = [RouterStatistics.from_features(part) for part in known]
    cascade = fit_cascade(statistics, LAYOUT, 1, NAMES, [WrongExperts()] * 4, [None] * 4, 0.02)
    assert [stage.name for stage in cascade.stages] == ["pixels", "blocks", "embedding"]
    new = np.concatenate(features_of(1, apart, count=20, each=1))[:, 0]
    choices, stages = decided(cascade, new)
    assert set(stages.tolist()) == {2}
    assert -1 not in choices


def test_too_few_seeds_for_what_is_typical_make_no_judge():
    parts = features_of(0, (1.2, 0, 0, 2))
    assert fitted(parts, logits=7).judge is None
    judge = fitted(parts, logits=8).judge
    logits = np.array(seen(logits=8)[2].largest_logits)
    assert judge.typical[2] == pytest.approx(logits.mean())
    assert judge.deviation[2] == pytest.approx(logits.std())
    assert fitted(parts[:1]).judge is None  # nothing to choose between


@pytest.mark.parametrize("refused", [0.0, 0.02, 0.2])
def test_what_may_be_refused_is_refused(refused):
    apart = (3, 0, 0, 3)
    cascade = fitted(features_of(0, apart, count=60), logits=7, refused=refused)
    new = np.concatenate(features_of(1, apart, count=400, each=1))[:, 0]
    last = cascade.stages[-1]
    _, confidence = last.router.posterior(new[:, LAYOUT.of_stages(cascade)[-1]].astype(float))
    below = (confidence < last.router.confidence_bound).mean()
    assert below == pytest.approx(refused, abs=0.02 + refused / 4)
    foreign = 10 + new[:200]
    choices, _ = decided(cascade, foreign)
    assert (choices == -1).mean() > 0.9


def test_groups_are_numbered_in_order_and_tasks_without_one_are_alone():
    assert group_numbers(["x", None, "y", "x", None]).tolist() == [0, 1, 2, 0, 3]
    assert group_numbers([None]).tolist() == [0]
    assert group_numbers([None, None, None]).tolist() == [0, 0, 0]  # losses alone decide
    assert group_numbers(["x", "x"]).tolist() == [0, 0]
