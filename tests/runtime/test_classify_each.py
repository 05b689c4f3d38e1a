"""`classify_each`: what `classify` says of every image, in order, as soon as it is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
from tiny_bundle import images

from mingle_edge_runtime import EdgeModel, ImageError, UnknownTaskError, classify_each

MANY = [*images(*(i % 4 for i in range(45)))]


@pytest.fixture(params=["image", "layer"])
def model(request, bundles) -> Iterator[EdgeModel]:
    """Of either scope."""
    with EdgeModel.open(bundles[request.param, 1], threads=1) as opened:
        yield opened


@pytest.mark.parametrize("number", [0, 1, 8, 9, 45])
def test_every_image_has_its_own_answer_in_order(model, number: int) -> None:
    answers = list(classify_each(model, iter(MANY[:number]), top=2, reject_below=0.5))
    assert [picture is given for (picture, _), given in zip(answers, MANY[:number], strict=True)] == [True] * number
    for (_, answer), given in zip(answers, MANY[:number], strict=True):
        (alone,) = model.classify([given], top=2, reject_below=0.5)
        assert (answer.labels, answer.rejected, answer.route.tasks) == (alone.labels, alone.rejected, alone.route.tasks)
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_an_answer_waits_for_no_image_that_is_still_to_come(model) -> None:
    answered = threading.Event()

    def slow() -> Iterator[np.ndarray]:
        yield MANY[0]
        assert answered.wait(60)  # else nothing would ever come of the first
        yield MANY[1]

    answers = classify_each(model, slow())
    assert next(answers)[0] is MANY[0]
    answered.set()
    assert next(answers)[0] is MANY[1]
    assert list(answers) == []


def test_one_that_cannot_be_read_costs_the_others_nothing(model) -> None:
    kinds = [type(answer) for _, answer in classify_each(model, [MANY[0], "gone.png", b"no image", MANY[1]])]
    assert [kind is ImageError for kind in kinds] == [False, True, True, False]


def test_what_the_images_raise_comes_after_the_answers_before_it(model) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield from MANY[:3]
        raise OSError("the camera has gone")

    answers = classify_each(model, failing())
    assert len(list(islice(answers, 3))) == 3
    with pytest.raises(OSError, match="the camera has gone"):
        next(answers)


def test_wrong_arguments_are_refused(model) -> None:
    with pytest.raises(UnknownTaskError, match="task 'rde' is not in the bundle"):
        next(classify_each(model, MANY, "rde"))


def test_closed_early_it_reads_no_further_than_a_few_images_ahead(model) -> None:
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for i in count():
            taken.append(i)
            yield MANY[i % len(MANY)]

    before = threading.active_count()
    answers = classify_each(model, endless())
    next(answers)
    answers.close()
    for thread in [thread for thread in threading.enumerate() if thread.name == "mingle-edge-images"]:
        thread.join(60)
        assert not thread.is_alive()
    assert len(taken) <= 8 * 6
    assert threading.active_count() <= before + 2  # those of `submit`
    assert model.classify(MANY[:1])
