"""Images without an end, or too many to wait for: each with its answer as soon as it is computed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from queue import Empty, Queue
from typing import NamedTuple

from mingle_edge_runtime.errors import ImageError
from mingle_edge_runtime.images.decoding import Picture
from mingle_edge_runtime.scopes.prediction import Prediction
from mingle_edge_runtime.serving.edge_model import EdgeModel

_GROUP = 8  # images of a run at most: what they gain in time, and what the first of them waits for the last
_IN_WORK = 2  # groups: one that runs, and one that is being decoded


class _Item(NamedTuple):
    picture: Picture


class _End(NamedTuple):
    error: BaseException | None


def classify_each(
    model: EdgeModel,
    images: Iterable[Picture],
    task: str | None = None,
    top: int = 5,
    head: str | None = None,
    *,
    reject_below: float | None = None,
) -> Iterator[tuple[Picture, Prediction | ImageError]]:
    """Yield every image with its answer, in order, as soon as that is there; one that cannot be read with its `ImageError`.

    The next images are decoded while those before them run, up to 8 in a run as far as they are there: an answer never waits
    for an image that is still to come. No more than 32 are held.

    images: iterated in a thread of its own, so that it may block, as a pipe or a camera does.
    task, top, head, reject_below: as in `EdgeModel.classify`.

    Raises what `EdgeModel.classify` and `images` raise, after the answers before it. Closed early, what has not begun is left
    undone.
    """
    with closing(_Reader(images)) as reader:
        pending: deque[tuple[list[Picture], Future[list[Prediction | ImageError]]]] = deque()
        size = 1  # so that the first answer is soon there
        try:
            while True:
                while len(pending) < _IN_WORK and (group := reader.take(size, wait=not pending)):
                    size = min(2 * size, _GROUP)
                    answers = model.submit(group, task, top, head, on_error="skip", reject_below=reject_below)
                    pending.append((group, answers))
                if not pending:
                    break
                group, answers = pending.popleft()
                yield from zip(group, answers.result(), strict=True)
        finally:
            for _, answers in pending:
                answers.cancel()
        reader.check()


class _Reader:
    """Iterates in the background, a few images ahead."""

    def __init__(self, images: Iterable[Picture]) -> None:
        self._ready: Queue[_Item | _End] = Queue(2 * _GROUP)
        self._end: _End | None = None
        self._closed = threading.Event()
        # A daemon: the process may end while this waits for an image that never comes.
        threading.Thread(target=self._read, args=(images,), name="mingle-edge-images", daemon=True).start()

    def take(self, most: int, wait: bool) -> list[Picture]:
        """Return the images that are there, `most` at most; wait for the first if asked. Then none at all is the end."""
        group: list[Picture] = []
        while len(group) < most and self._end is None:
            try:
                item = self._ready.get(block=wait and not group)
            except Empty:
                break
            if isinstance(item, _End):
                self._end = item
            else:
                group.append(item.picture)
        return group

    def check(self) -> None:
        """Raise what iterating the images raised."""
        if self._end is not None and self._end.error is not None:
            raise self._end.error

    def close(self) -> None:
        """Let the thread end when its images next give it one."""
        self._closed.set()
        while not self._ready.empty():  # it may be waiting for room
            self._ready.get_nowait()

    def _read(self, images: Iterable[Picture]) -> None:
        error: BaseException | None = None
        try:
            for picture in images:
                if self._closed.is_set():
                    return
                self._ready.put(_Item(picture))
        except BaseException as raised:  # whatever it is belongs to whoever asks for the answers
            error = raised
        self._ready.put(_End(error))
