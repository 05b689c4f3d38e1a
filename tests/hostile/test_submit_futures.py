"""What applications do to work in the background: every future ends, and nothing waits for itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import Weights, images, write_image_bundle

from mingle_edge_runtime import EdgeError, EdgeModel, Prediction
from mingle_edge_runtime.serving.submissions import WAITING

IMAGES = images(0, 2, 3, 1)
LONG = 20  # seconds that no test comes near to


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A bundle of the image scope."""
    return write_image_bundle(tmp_path_factory.mktemp("futures") / "bundle", Weights())


@pytest.fixture
def model(folder) -> Iterator[EdgeModel]:
    """An open bundle; a test fails where closing it does not come to an end."""
    opened = EdgeModel.open(folder, threads=1)
    yield opened
    closing = threading.Thread(target=opened.close, daemon=True)
    closing.start()
    closing.join(LONG)
    assert not closing.is_alive()


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
        assert self.open.wait(LONG)
        yield IMAGES[0]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("after", [0, 1, 40])
def test_whatever_an_iterator_raises_arrives(model, kind: type[BaseException], after: int) -> None:
    for _ in range(3):  # more than there are places for batches
        with pytest.raises(kind):
            model.submit(raising(kind(), after)).result(LONG)
    assert model.submit(IMAGES[0]).result(LONG) == model.classify(IMAGES[0])


def test_whatever_a_run_raises_arrives(model, monkeypatch) -> None:
    expected = model.classify(IMAGES[0])
    with monkeypatch.context() as patched:
        patched.setattr(model.scope, "embed", lambda *given: next(raising(SystemExit(3), 0)))
        for _ in range(3):
            with pytest.raises(SystemExit):
                model.submit(IMAGES[0]).result(LONG)
    assert model.submit(IMAGES[0]).result(LONG) == expected


def test_a_callback_that_raises_costs_no_other_future(model) -> None:
    gate = Gate()
    first, second = model.submit(gate), model.submit(IMAGES[1])
    first.add_done_callback(lambda future: next(raising(SystemExit(3), 0)))
    gate.open.set()
    assert first.result(LONG) == model.classify(IMAGES[0])
    assert second.result(LONG) == model.classify(IMAGES[1])


def test_a_callback_may_submit_while_others_wait(model) -> None:
    gate, added = Gate(), []
    done = threading.Event()

    def again(_: Future[list[Prediction]]) -> None:
        added.extend(model.submit(IMAGES[i % 4]) for i in range(2 * WAITING))
        done.set()

    first = model.submit(gate)
    first.add_done_callback(again)
    assert gate.reached.wait(LONG)
    waiting = [model.submit(IMAGES[1]) for _ in range(WAITING)]
    gate.open.set()
    assert done.wait(LONG)
    assert [future.result(LONG) for future in waiting] == [model.classify(IMAGES[1])] * WAITING
    assert [future.result(LONG) for future in added] == [model.classify(IMAGES[i % 4]) for i in range(2 * WAITING)]


def test_an_iterator_may_submit_while_others_wait(model) -> None:
    gate, added = Gate(), []

    def asking() -> Iterator[np.ndarray]:
        yield from gate
        added.extend(model.submit(IMAGES[2]) for _ in range(2 * WAITING))

    first = model.submit(asking())
    assert gate.reached.wait(LONG)
    waiting = [model.submit(IMAGES[1]) for _ in range(WAITING)]
    gate.open.set()
    assert first.result(LONG) == model.classify(IMAGES[0])
    assert [future.result(LONG) for future in [*waiting, *added]] == (
        [model.classify(IMAGES[1])] * WAITING + [model.classify(IMAGES[2])] * 2 * WAITING
    )


def test_a_callback_may_close_the_model(folder) -> None:
    model, gate = EdgeModel.open(folder, threads=1), Gate()
    expected = model.classify(np.tile(IMAGES, (20, 1, 1, 1)))
    closed = threading.Event()
    first, last = model.submit(gate), model.submit(np.tile(IMAGES, (20, 1, 1, 1)))
    first.add_done_callback(lambda future: (model.close(), closed.set()))
    gate.open.set()
    assert closed.wait(LONG)
    assert last.result(LONG) == expected  # what was submitted is finished
    with pytest.raises(EdgeError, match="is closed"):
        model.submit(IMAGES[0])
    model.close()


def test_a_producer_that_waits_while_the_model_is_closed_is_told(folder) -> None:
    model, gate, errors = EdgeModel.open(folder, threads=1), Gate(), []
    futures = [model.submit(gate)]
    assert gate.reached.wait(LONG)
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
        thread.join(LONG)
        assert not thread.is_alive()
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

    monkeypatch.setattr(model.scope, "embed", lambda *given: next(raising(ZeroDivisionError(), 0)))
    with pytest.raises(ZeroDivisionError):
        model.submit(many()).result(LONG)
    assert ended.wait(LONG)


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
    assert [model.submit(image).result(LONG) for image in IMAGES] == [model.classify(image) for image in IMAGES]
