"""What a server needs of a model: warming up, asyncio, and a log, each against what the runtime does without them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from tiny_bundle import KINDS, TASKS, images

from mingle_edge_runtime import DeviceMemoryError, EdgeError, EdgeModel, ImageError, UnknownTaskError
from mingle_edge_runtime.experts.store import ExpertStore
from mingle_edge_runtime.ort.session import Session
from mingle_edge_runtime.scopes import image_scope
from mingle_edge_runtime.serving.submissions import WAITING

IMAGES = images(0, 2, 3, 1)
LONG = 20  # seconds that no test comes near to


@pytest.fixture
def runs(monkeypatch) -> Counter[str]:
    """The number of runs of each graph, and of graphs that were opened."""
    counts: Counter[str] = Counter()
    run, opened = Session.run, Session.__init__

    def counted_run(self: Session, *arguments, **options):
        counts[self.path.name] += 1
        return run(self, *arguments, **options)

    def counted_open(self: Session, *arguments, **options) -> None:
        opened(self, *arguments, **options)
        counts[f"open {self.path.name}"] += 1

    monkeypatch.setattr(Session, "run", counted_run)
    monkeypatch.setattr(Session, "__init__", counted_open)
    return counts


@pytest.mark.parametrize("k", [1, 2])
def test_warming_up_runs_router_and_tower_once_and_reads_no_expert(bundles, runs, k: int) -> None:
    with EdgeModel.open(bundles["image", k], threads=1) as model:
        expected = [model.classify(image) for image in IMAGES]
    runs.clear()
    with EdgeModel.open(bundles["image", k], threads=1) as model:
        model.warm_up()
        assert runs == {"open tower.onnx": 1, "open router.onnx": 1, "router.onnx": 1, "tower.onnx": 1}
        assert model.stats().bytes_loaded == 0
        assert [model.classify(image) for image in IMAGES] == expected
        assert runs["open tower.onnx"] == runs["open router.onnx"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_after_warming_up_for_its_task_a_request_waits_for_no_expert(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind], threads=1) as model:
        model.warm_up("green")
        before = model.stats()
        assert before.bytes_loaded == model.bundle.index.tasks[1].expert_bytes
        model.classify(IMAGES, task="green")
        after = model.stats()
        assert (after.misses, after.bytes_loaded, after.stall_seconds) == (
            before.misses,
            before.bytes_loaded,
            before.stall_seconds,
        )
        with pytest.raises(UnknownTaskError, match="task 'rde'"):
            model.warm_up(["red", "rde"])
    with pytest.raises(EdgeError, match="is closed"):
        model.warm_up()


def test_warming_up_the_layer_scope_runs_the_tower_once(bundles, runs) -> None:
    with EdgeModel.open(bundles["layer", 1], threads=1) as model:
        model.warm_up()
        assert runs["tower.onnx"] == 1
        assert model.stats().bytes_loaded > 0  # the tower chooses, and reads what it chose


class Gate:
    """Images that arrive when the gate opens."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[np.ndarray]:
        self.reached.set()
        assert self.open.wait(LONG)
        yield IMAGES[0]


@pytest.mark.parametrize("kind", ["image_bundle", "layer_bundle"])
def test_awaited_answers_are_those_of_classify(request, tmp_path, kind: str) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    mixed = [IMAGES[0], tmp_path / "broken.png"]
    with EdgeModel.open(request.getfixturevalue(kind), threads=1) as model:

        async def work() -> None:
            answers = await asyncio.gather(*(model.aclassify(image, top=3) for image in IMAGES))
            assert answers == [model.classify(image, top=3) for image in IMAGES]
            named = await model.aclassify(IMAGES, "red", head="blue", reject_below=0.5)
            assert named == model.classify(IMAGES, "red", head="blue", reject_below=0.5)
            good, bad = await model.aclassify(mixed, on_error="skip")
            assert ([good], type(bad)) == (model.classify(IMAGES[0]), ImageError)
            with pytest.raises(ImageError, match=r"broken\.png"):
                await model.aclassify(mixed)
            with pytest.raises(UnknownTaskError, match="task 'rde'"):
                await model.aclassify(IMAGES, task="rde")

        asyncio.run(work())

        async def late() -> None:
            with pytest.raises(EdgeError, match="is closed"):
                await model.aclassify(IMAGES)

    asyncio.run(late())


def test_the_event_loop_goes_on_however_many_calls_wait(image_bundle) -> None:
    async def work(model: EdgeModel) -> None:
        gate = Gate()
        first = asyncio.create_task(model.aclassify(gate))
        others = [asyncio.create_task(model.aclassify(image)) for image in [*IMAGES] * WAITING]
        while not gate.reached.is_set():  # set by a thread, while this one is not blocked
            await asyncio.sleep(0.001)
        assert not any(task.done() for task in (first, *others))
        gate.open.set()
        answers = await asyncio.gather(*others)
        assert answers == [model.classify(image) for image in [*IMAGES] * WAITING]
        assert await first == model.classify(IMAGES[0])

    with EdgeModel.open(image_bundle, threads=1) as model:
        asyncio.run(asyncio.wait_for(work(model), LONG))


def test_canceling_leaves_out_what_has_not_begun_and_drops_the_rest(image_bundle, runs) -> None:
    async def work(model: EdgeModel) -> None:
        gate, never = Gate(), Gate()
        running, waiting = (asyncio.create_task(model.aclassify(images)) for images in (gate, never))
        while not gate.reached.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        running.cancel()
        for task in (running, waiting):  # both at once, though the first one's image is still being read
            with pytest.raises(asyncio.CancelledError):
                await task
        assert runs["tower.onnx"] == 0
        gate.open.set()
        assert await model.aclassify(IMAGES[1]) == model.classify(IMAGES[1])
        assert not never.reached.is_set()

    with EdgeModel.open(image_bundle, threads=1) as model:
        asyncio.run(asyncio.wait_for(work(model), LONG))
    assert runs["tower.onnx"] == 3  # the one that had begun was finished


def logged(caplog) -> list[tuple[str, str]]:
    """What was logged so far, and forgotten then."""
    records = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert all(record.name.startswith("mingle_edge_runtime.") for record in caplog.records)
    caplog.clear()
    return records


def test_experts_that_are_read_and_given_up_are_logged_with_what_is_counted(bundles, caplog) -> None:
    caplog.set_level(logging.INFO, "mingle_edge_runtime")
    with EdgeModel.open(bundles["image", 1]) as model:
        size = model.bundle.index.tasks[0].expert_bytes
    with EdgeModel.open(bundles["image", 1], expert_budget=size) as model:
        assert logged(caplog) == []
        model.embed(IMAGES, task="red")
        assert logged(caplog) == [("INFO", f"expert 'red' read: {size} bytes")]
        model.embed(IMAGES, task="red")
        assert logged(caplog) == []
        model.embed(IMAGES, task="blue")
        assert logged(caplog) == [
            ("INFO", f"expert 'red' given up: {size} bytes"),
            ("INFO", f"expert 'blue' read: {size} bytes"),
        ]
        model.set_expert_budget(None)
        model.prefetch(TASKS)
        model.set_expert_budget(size)
        lines = [message for _, message in logged(caplog)]
    assert Counter(line.split()[2] for line in lines) == {"read:": 2, "given": 2}


@pytest.mark.parametrize("k", [1, 2])
def test_the_log_of_the_layer_scope_adds_up(bundles, caplog, k: int) -> None:
    caplog.set_level(logging.INFO, "mingle_edge_runtime")
    with EdgeModel.open(bundles["layer", k], expert_budget=k * 4096 * 4) as model:
        for image in [*IMAGES, *IMAGES]:
            model.embed(image)
        stats = model.stats()
    read, given_up = 0, 0
    for level, line in logged(caplog):
        if level != "INFO":
            continue
        size = int(line.split()[-2])
        read, given_up = (read + size, given_up) if " read: " in line else (read, given_up + size)
    assert (read, read - given_up) == (stats.bytes_loaded, stats.resident_bytes)
    assert read > 0


def test_a_handler_may_ask_the_model(bundles) -> None:
    """From another thread: a lock that is held while a handler is called would keep both waiting."""
    seen: list[int] = []
    with EdgeModel.open(bundles["image", 1]) as model:

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                asking = threading.Thread(target=lambda: seen.append(model.stats().bytes_loaded))
                asking.start()
                asking.join(LONG)

        logger, handler = logging.getLogger("mingle_edge_runtime"), Handler()
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            model.prefetch(TASKS)
            model.set_expert_budget(model.bundle.index.tasks[0].expert_bytes)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        assert len(seen) == 3 + 2


def test_notes_are_logged_as_warnings(bundles, caplog, monkeypatch) -> None:
    with EdgeModel.open(bundles["image", 2]) as model:
        notes = model.stats().notes
        assert notes
        assert logged(caplog) == [("WARNING", f"{model.bundle.root}: {note}") for note in notes]
    monkeypatch.setattr(image_scope, "CPU", "no provider")  # so that the one at hand counts as one that copies
    with EdgeModel.open(bundles["image", 1]) as model:
        assert len(model.stats().notes) == 1
        assert [level for level, _ in logged(caplog)] == ["WARNING"]


def test_a_device_without_memory_is_logged_once_it_has_made_room(caplog) -> None:
    full = iter([False, True, False])

    def load(task: str) -> str:
        if next(full):
            raise DeviceMemoryError("no memory left")
        return task

    experts = ExpertStore({task: {task: 10} for task in "ab"}, load, None, 1)
    experts.prefetch("ab")
    assert [line for line in logged(caplog) if line[0] == "WARNING"] == [("WARNING", experts.stats().notes[-1])]


def test_nothing_is_shown_unless_the_application_asks(bundles) -> None:
    code = f"""
import logging, sys
import numpy as np
from mingle_edge_runtime import EdgeModel
if "ask" in sys.argv:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s")
with EdgeModel.open({str(bundles["image", 2])!r}) as model:
    model.prefetch("red")
"""
    for ask, expected in (("ask", "WARNING\nINFO\n"), ("do not", "")):
        result = subprocess.run([sys.executable, "-c", code, ask], capture_output=True, text=True, timeout=60, check=False)
        assert (result.stdout, result.stderr) == (expected, "")
