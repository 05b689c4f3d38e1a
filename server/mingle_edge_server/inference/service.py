"""The way of a request through the server: accepted or refused, decoded in one of several threads, run in the one that runs.

Requests never share a batch, so an answer is, bit for bit, the one that `EdgeModel.classify` gives for the same images.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime import EdgeError, EdgeModel, UnknownTaskError
from mingle_edge_server.errors import RequestError
from mingle_edge_server.inference.images import pixel_values
from mingle_edge_server.inference.limits import Limits
from mingle_edge_server.inference.metrics import Metrics
from mingle_edge_server.inference.statistics import Statistics
from mingle_edge_server.protocol.outputs import Answer
from mingle_edge_server.protocol.request import InferenceRequest

_LOG = logging.getLogger(__name__)
_MOST_DECODERS = 4
_RETRY = {"Retry-After": "1"}
R = TypeVar("R")


class InferenceService:
    """One model, its queue and its threads. Used from one event loop."""

    def __init__(self, model: EdgeModel, limits: Limits, task: str | None) -> None:
        """Serve `model`, which stays the caller's to close.

        task: of requests that name none. Raises `UnknownTaskError`.
        """
        if task is not None:
            _check_task(model, task)
        self.model = model
        self.limits = limits
        self.failure: Exception | None = None
        """why the model could not be warmed up"""
        self.tell_failure: Callable[[Exception], object] = lambda error: _LOG.error("the model cannot run: %s", error)
        """what it is given to, once; whoever raises `failure` tells it there and not in the log, too"""
        self.statistics = Statistics()
        self._task = task
        self._warm = self._stopping = False
        self._accepted = 0
        decoders = min(_MOST_DECODERS, _usable_cores())
        self._decoding = ThreadPoolExecutor(decoders, "mingle-edge-decode")
        self._running = ThreadPoolExecutor(1, "mingle-edge-run")
        self._in_work = asyncio.Semaphore(decoders + 1)  # requests whose pixels are in memory, each up to 32 images
        self.metrics = Metrics(model, lambda: self._accepted, lambda: self.ready, limits.queue)

    @property
    def ready(self) -> bool:
        """Return whether requests are answered: the model is warm, and the server does not stop."""
        return self._warm and not self._stopping

    async def warm_up(self) -> None:
        """Run the model once, so that no request waits for what the first run does. A failure is kept in `failure`."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._running, self.model.warm_up, [self._task] if self._task else [])
        except Exception as error:
            self.failure = error
            self.tell_failure(error)
        else:
            self._warm = True

    def stop(self) -> None:
        """Accept no more requests; those accepted are answered."""
        self._stopping = True

    def close(self) -> None:
        """End the threads; what waits for one is given up."""
        self.stop()
        for threads in (self._decoding, self._running):
            threads.shutdown(cancel_futures=True)

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Count a request among those under way within the block.

        Raises `RequestError` of status 503 where the server is not ready, or as many are under way as may be.
        """
        if not self.ready:
            why = "is stopping" if self._stopping else "cannot run its model" if self.failure else "is warming up"
            raise RequestError(f"the server {why}: try again later, or another one", 503, _RETRY)
        if self._accepted >= self.limits.queue:
            raise RequestError(
                f"the queue is full: {self._accepted} requests are under way, and at most {self.limits.queue} are accepted; "
                "try again in a second",
                503,
                _RETRY,
                queue_length=self._accepted,
                queue_limit=self.limits.queue,
            )
        self._accepted += 1
        try:
            yield
        finally:
            self._accepted -= 1

    async def answer(self, read: Callable[[], InferenceRequest]) -> tuple[InferenceRequest, Answer]:
        """Answer a request that was accepted.

        read: makes the request of its bytes, in a thread that decodes.

        Raises `RequestError`; where the model itself fails, of status 500, and the log says why.
        """
        started = time.perf_counter()
        try:
            async with self._in_work:
                decoded, (request, pixels) = await self._timed(self._decoding, self._prepare, read)
                ran, answer = await self._timed(self._running, self._run, request, pixels)
        except RequestError:
            self.statistics.failed(time.perf_counter() - started)
            raise
        waited = max(0.0, time.perf_counter() - started - decoded - ran)
        answer.seconds.update(decode=decoded, queue=waited, run=ran)
        self.metrics.count_answer(answer.predictions, answer.seconds)
        self.statistics.succeeded(len(answer.predictions), answer.seconds)
        return request, answer

    async def _timed(self, threads: ThreadPoolExecutor, call: Callable[..., R], *arguments: object) -> tuple[float, R]:
        """Call in a thread, and return the seconds it took there with the result. Canceled before it begins, it never does."""

        def timed() -> tuple[float, R]:
            started = time.perf_counter()
            result = call(*arguments)
            return time.perf_counter() - started, result

        return await asyncio.get_running_loop().run_in_executor(threads, timed)

    def _prepare(self, read: Callable[[], InferenceRequest]) -> tuple[InferenceRequest, NDArray[np.float32]]:
        request = read()
        try:
            if request.task:
                _check_task(self.model, request.task)
            if request.head:
                self.model.labels(request.head)
        except UnknownTaskError as error:
            raise RequestError(str(error)) from error
        return request, pixel_values(self.model, request.images, self.limits.pixels)

    def _run(self, request: InferenceRequest, pixels: NDArray[np.float32]) -> Answer:
        task = self._task if request.task is None else request.task or None
        try:
            predictions, embeddings = self.model.classify_pixels(
                pixels, task, request.top, request.head, reject_below=request.reject_below
            )
        except EdgeError as error:
            _LOG.error("a request failed: %s", error)
            raise RequestError("the model failed to run; the server's log says why", 500) from error
        return Answer(predictions, embeddings, {})


def _check_task(model: EdgeModel, task: str) -> None:
    if task not in model.tasks:
        raise UnknownTaskError(f"task {task!r} is not in the bundle; it has {', '.join(model.tasks)}")


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
