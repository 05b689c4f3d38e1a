"""What applications do to work in the background: every future ends, nothing waits for itself, and images may be skipped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from tiny_bundle import images

from mingle_edge_runtime import EdgeError, EdgeModel, ImageError, Prediction
from mingle_edge_runtime.serving.submissions import WAITING

IMAGES = images(0, 2, 3, 1)
BROKEN = np.zeros((3, 3, 3))


@pytest.fixture
def model(image_bundle) -> Iterator[EdgeModel]:
    """An open bundle; a test fails where closing it does not come to an end."""
    with EdgeModel.open(image_bundle, threads=1) as opened:
        yield opened


def raising(error: BaseException, after: int = 1) -> Iterator[np.ndarray]:
    """Images, and then the error."""
    yield from [IMAGES[0]] * after
    raise error


class Gate:
    """Images that arrive when the gate opens."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[np.ndarray]:
        self.reached.set()
        assert self.open.wait()
        yield IMAGES[0]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("after", [0, 1, 40])
def test_whatever_an_iterator_raises_arrives(model, kind: type[BaseException], after: int) -> None:
    for _ in range(3):  # more than there are places for batches
        with pytest.raises(kind):
            model.submit(raising(kind(), after)).result()
    assert model.submit(IMAGES[0]).result() == model.classify(IMAGES[0])


def test_whatever_a_run_raises_arrives(model, monkeypatch) -> None:
    expected = model.classify(IMAGES[0])
    with monkeypatch.context() as patched:
        patched.setattr(model.scope, "embed", lambda *given, **named: next(raising(SystemExit(3), 0)))
        for _ in range(3):
            with pytest.raises(SystemExit):
                model.submit(IMAGES[0]).result()
    assert model.submit(IMAGES[0]).result() == expected


def test_a_callback_that_raises_costs_no_other_future(model) -> None:
    gate = Gate()
    first, second = model.submit(gate), model.submit(IMAGES[1])
    first.add_done_callback(lambda future: next(raising(SystemExit(3), 0)))
    gate.open.set()
    assert first.result() == model.classify(IMAGES[0])
    assert second.result() == model.classify(IMAGES[1])


@pytest.mark.parametrize("place", ["callback", "iterator"])
def test_work_that_is_waited_for_may_submit(model, place: str) -> None:
    gate, added, done = Gate(), [], threading.Event()

    def submit_more(_: Future[list[Prediction]] | None = None) -> None:
        added.extend(model.submit(IMAGES[i % 4]) for i in range(2 * WAITING))
        done.set()

    def asking() -> Iterator[np.ndarray]:
        yield from gate
        if place == "iterator":
            submit_more()

    first = model.submit(asking())
    if place == "callback":
        first.add_done_callback(submit_more)
    assert gate.reached.wait()
    waiting = [model.submit(IMAGES[1]) for _ in range(WAITING)]
    gate.open.set()
    assert done.wait()
    assert first.result() == model.classify(IMAGES[0])
    assert [future.result() for future in waiting] == [model.classify(IMAGES[1])] * WAITING
    assert [future.result() for future in added] == [model.classify(IMAGES[i % 4]) for i in range(2 * WAITING)]


def test_a_callback_may_close_the_model(image_bundle) -> None:
    model, gate = EdgeModel.open(image_bundle, threads=1), Gate()
    expected = model.classify(np.tile(IMAGES, (20, 1, 1, 1)))
    closed = threading.Event()
    first, last = model.submit(gate), model.submit(np.tile(IMAGES, (20, 1, 1, 1)))
    first.add_done_callback(lambda future: (model.close(), closed.set()))
    gate.open.set()
    assert closed.wait()
    assert last.result() == expected  # what was submitted is finished
    with pytest.raises(EdgeError, match="is closed"):
        model.submit(IMAGES[0])
    model.close()


def test_a_producer_that_waits_while_the_model_is_closed_is_told(image_bundle) -> None:
    model, gate, errors = EdgeModel.open(image_bundle, threads=1), Gate(), []
    futures = [model.submit(gate)]
    assert gate.reached.wait()
    futures += [model.submit(IMAGES[1]) for _ in range(WAITING)]

    def produce() -> None:
        try:
            futures.append(model.submit(IMAGES[2]))
        except EdgeError as error:
            errors.append(error)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    producer.join(0.05)
    assert producer.is_alive()
    closing = threading.Thread(target=model.close, daemon=True)
    closing.start()
    closing.join(0.05)
    gate.open.set()
    for thread in (closing, producer):
        thread.join()
    assert all(future.done() for future in futures)
    assert len(errors) == 1


def test_the_images_of_a_call_that_stops_are_let_go(model, monkeypatch) -> None:
    ended = threading.Event()

    def many() -> Iterator[np.ndarray]:
        try:
            while True:
                yield IMAGES[0]
        finally:
            ended.set()

    monkeypatch.setattr(model.scope, "embed", lambda *given, **named: next(raising(ZeroDivisionError(), 0)))
    with pytest.raises(ZeroDivisionError):
        model.submit(many()).result()
    assert ended.wait()


@pytest.mark.parametrize("nth", [1, 2])
def test_a_thread_that_cannot_be_started_is_an_error_at_once(model, monkeypatch, nth: int) -> None:
    start, calls = threading.Thread.start, []

    def refusing(thread: threading.Thread) -> None:
        calls.append(thread)
        if len(calls) == nth:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    with pytest.raises(EdgeError, match="nothing more can be submitted \\(can't start new thread\\)"):
        model.submit(IMAGES[0])
    assert [model.submit(image).result() for image in IMAGES] == [model.classify(image) for image in IMAGES]


@pytest.mark.parametrize("broken", [{1}, {0, 3}, {0, 1, 2, 3}, set(range(1, 70)), set(range(70))])
def test_images_that_cannot_be_read_cost_no_other_one_its_place(model, broken: set[int]) -> None:
    """Also where all of one run are broken, or more than one run's."""
    asked = [BROKEN if i in broken else IMAGES[i % 4] for i in range(max(4, len(broken)))]
    answers = model.classify(asked, on_error="skip")
    assert len(answers) == len(asked)
    for i, answer in enumerate(answers):
        if i in broken:
            assert isinstance(answer, ImageError)
            assert str(answer).startswith(f"image {i} is an array of float64")
            assert answer.__traceback__ is None  # which would hold the picture
        else:
            assert answer == model.classify(IMAGES[i % 4])[0]
    assert list(map(str, model.submit(asked, on_error="skip").result())) == list(map(str, answers))


def test_nothing_else_is_skipped(model) -> None:
    for ask in (model.classify, lambda *given, **options: model.submit(*given, **options).result()):
        with pytest.raises(ImageError, match="camera"):
            ask(raising(ImageError("of the application's camera")), on_error="skip")
        with pytest.raises(ImageError, match="image 1 is an array of float64"):
            ask([IMAGES[0], BROKEN])
        with pytest.raises(EdgeError, match='on_error is \'ignore\', must be "raise" or "skip"'):
            ask(IMAGES, on_error="ignore")
