"""Work in the background: the same results as in the foreground, and nothing lost, whatever fails or is canceled."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import images

from mingle_edge_runtime import EdgeError, EdgeModel, ImageError, UnknownTaskError
from mingle_edge_runtime.serving.submissions import WAITING

IMAGES = images(0, 2, 3, 1, 1, 0, 3, 2, seed=1)
LONG = 20  # seconds that no test comes near to


@pytest.fixture(scope="module", params=["image", "layer"])
def folder(request, bundles) -> Path:
    """A bundle of either scope."""
    return bundles[request.param, 1]


class Gate:
    """Images that arrive when the gate opens."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[np.ndarray]:
        self.reached.set()
        assert self.open.wait(LONG)
        yield IMAGES[0]


def test_results_are_those_of_classify_in_the_order_of_submission(folder) -> None:
    many = np.tile(IMAGES, (10, 1, 1, 1))  # more than one run takes
    done: list[int] = []
    with EdgeModel.open(folder, threads=1) as model:
        futures = [model.submit(image, top=3) for image in IMAGES]
        futures += [model.submit(many), model.submit([]), model.submit(IMAGES, task="red", head="blue")]
        for i, future in enumerate(futures):
            future.add_done_callback(lambda _, i=i: done.append(i))
        for image, future in zip(IMAGES, futures, strict=False):
            assert future.result(LONG) == model.classify(image, top=3)
        assert futures[8].result(LONG) == model.classify(many)
        assert futures[9].result(LONG) == []
        assert futures[10].result(LONG) == model.classify(IMAGES, task="red", head="blue")
    assert done == sorted(done)
    assert len(done) == 11


def test_errors_arrive_through_their_own_future(folder, tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")

    with EdgeModel.open(folder, threads=1) as model:
        broken, good = model.submit([IMAGES[0], tmp_path / "broken.png"]), model.submit(IMAGES[0])
        with pytest.raises(ImageError, match=r"broken\.png"):
            broken.result(LONG)
        assert good.result(LONG) == model.classify(IMAGES[0])
        with pytest.raises(UnknownTaskError, match="task 'rde'"):
            model.submit(IMAGES[0], task="rde")
        with pytest.raises(EdgeError, match="top is 0"):
            model.submit(IMAGES[0], top=0)


def test_preparing_goes_on_while_a_run_goes_on(folder, monkeypatch) -> None:
    with EdgeModel.open(folder, threads=1) as model:
        expected = model.classify(IMAGES[0])
        gate, original = Gate(), model.scope.embed

        def embed(pixels: np.ndarray, task: str | None = None) -> object:
            assert gate.reached.wait(LONG)  # the next images are asked for before this run ends
            return original(pixels, task)

        monkeypatch.setattr(model.scope, "embed", embed)
        first, second = model.submit(IMAGES[0]), model.submit(gate)
        assert first.result(LONG) == expected
        gate.open.set()
        assert second.result(LONG) == expected


def test_what_has_not_begun_can_be_canceled(folder) -> None:
    gate, never = Gate(), Gate()
    with EdgeModel.open(folder, threads=1) as model:
        running, canceled, last = model.submit(gate), model.submit(never), model.submit(IMAGES[1])
        assert gate.reached.wait(LONG)
        assert canceled.cancel()
        assert not running.cancel()
        gate.open.set()
        assert last.result(LONG) == model.classify(IMAGES[1])
        assert running.result(LONG) == model.classify(IMAGES[0])
        with pytest.raises(CancelledError):
            canceled.result(LONG)
        assert not never.reached.is_set()


def test_a_producer_that_is_too_fast_waits(folder) -> None:
    gate = Gate()
    with EdgeModel.open(folder, threads=1) as model:
        futures = [model.submit(gate)]
        assert gate.reached.wait(LONG)
        futures += [model.submit(IMAGES[1]) for _ in range(WAITING)]
        blocked = threading.Thread(target=lambda: futures.append(model.submit(IMAGES[2])))
        blocked.start()
        blocked.join(0.05)
        assert blocked.is_alive()
        gate.open.set()
        blocked.join(LONG)
        assert not blocked.is_alive()
        assert [future.result(LONG) for future in futures[-2:]] == [model.classify(IMAGES[1]), model.classify(IMAGES[2])]


@pytest.mark.parametrize("ending", ["", "del model", "model.close()"])
def test_a_process_ends_by_itself_with_all_work_done(folder, tmp_path, ending: str) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    code = f"""
import numpy as np
from mingle_edge_runtime import EdgeModel
model = EdgeModel.open({str(folder)!r}, threads=1)
images = np.load({str(tmp_path / "images.npy")!r})
for image in images:
    # One write for a line: callbacks run on the model's thread, or on this one where the work is already done.
    model.submit(image).add_done_callback(lambda future: print(f"{{len(future.result())}}\\n", end="", flush=True))
{ending}
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("1\n" * 8, "", 0)


def test_everything_at_once_gives_what_one_after_the_other_gives(folder) -> None:
    orders = [np.random.default_rng(i).permutation(8) for i in range(6)]
    with EdgeModel.open(folder, threads=1) as model:
        size = max(task.expert_bytes for task in model.bundle.index.tasks)
        expected = [(model.classify(IMAGES[order]), model.embed(IMAGES[order], "green")) for order in orders]
    barrier = threading.Barrier(6)
    with EdgeModel.open(folder, expert_budget=size, threads=1) as model:

        def work(number: int) -> None:
            order = orders[number]
            barrier.wait()
            for _ in range(15):
                future = model.submit(IMAGES[order])
                predictions, embeds = expected[number]
                assert model.classify(IMAGES[order]) == predictions
                np.testing.assert_array_equal(model.embed(IMAGES[order], "green"), embeds)
                assert future.result(LONG) == predictions

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        assert model.stats().evictions > 0
        assert model.stats().resident_bytes <= size
