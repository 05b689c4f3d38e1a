"""Work in the background: one thread prepares images while another one runs those prepared before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.errors import EdgeError

WAITING = 8
"""calls that may wait to begin; a further one is kept waiting itself"""
_IN_WORK = 2  # batches of images in memory: one that runs, and one that is being prepared or is ready
R = TypeVar("R")
T = TypeVar("T")
_Batches = Iterator[NDArray[np.float32]]


class Submissions(Generic[R]):
    """Calls in the order of their submission; each is a sequence of batches and gives a list of results."""

    def __init__(self) -> None:
        self._preparing = ThreadPoolExecutor(1, "mingle-edge-prepare")  # their threads start with the first call
        self._running = ThreadPoolExecutor(1, "mingle-edge-run")
        self._room = threading.Semaphore(WAITING)
        self._in_work = threading.Semaphore(_IN_WORK)

    def submit(self, batches: _Batches, run: Callable[[NDArray[np.float32]], list[R]]) -> Future[list[R]]:
        """The results of `run` on every batch, in order; waits while `WAITING` calls wait to begin.

        batches: preparing one is iterating. Raises `EdgeError` where `close` was called.
        """
        future: Future[list[R]] = Future()
        self._room.acquire()
        try:
            self._preparing.submit(self._prepare, future, batches, run)
        except RuntimeError as error:
            self._room.release()
            raise EdgeError("the model is closed, or the interpreter ends: nothing more can be submitted") from error
        return future

    def close(self) -> None:
        """Finish what was submitted, then end both threads."""
        self._preparing.shutdown()
        self._running.shutdown()

    def _prepare(self, future: Future[list[R]], batches: _Batches, run: Callable[[NDArray[np.float32]], list[R]]) -> None:
        self._room.release()
        if not future.set_running_or_notify_cancel():
            return
        parts: list[Future[list[R]]] = []
        failure: Exception | None = None
        while not any(part.done() and part.exception() for part in parts[-_IN_WORK:]):
            self._in_work.acquire()
            try:
                batch = next(batches, None)
                if batch is None:
                    self._in_work.release()
                    break
                parts.append(self._hand_over(self._step, run, batch))
            except Exception as error:  # whatever an image or an application's iterator raises belongs to its future
                self._in_work.release()
                failure = error
                break
        self._hand_over(_finish, future, parts, failure)

    def _hand_over(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        try:
            return self._running.submit(call, *arguments)
        except RuntimeError:  # the interpreter ends and starts no more work, though it waits for this thread
            future: Future[T] = Future()
            future.set_result(call(*arguments))
            return future

    def _step(self, run: Callable[[NDArray[np.float32]], list[R]], batch: NDArray[np.float32]) -> list[R]:
        try:
            return run(batch)
        finally:
            self._in_work.release()


def _finish(future: Future[list[R]], parts: list[Future[list[R]]], failure: Exception | None) -> None:
    try:
        results = [result for part in parts for result in part.result()]
        if failure is not None:
            raise failure
    except Exception as error:  # handed over to whoever asks for the result
        future.set_exception(error)
    else:
        future.set_result(results)
