"""Work in the background: one thread prepares images while another one runs those prepared before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from mingle_edge_runtime.errors import EdgeError

WAITING = 8
"""calls that may wait to begin; a further one is kept waiting itself"""
_IN_WORK = 2  # batches of images in memory: one that runs, and one that is being prepared or is ready
B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")


class Submissions(Generic[B, R]):
    """Calls in the order of their submission; each is a sequence of batches and gives a list of results.

    Every future ends, whatever the batches, the runs or the callbacks of another future raise.
    """

    def __init__(self) -> None:
        self._threads = threading.local()  # `ours` is set in both
        self._preparing, self._running = self._pool("prepare"), self._pool("run")  # their threads start with the first call
        self._waiting: set[Future[list[R]]] = set()
        self._begun = threading.Condition()  # guards the set
        self._in_work = threading.Semaphore(_IN_WORK)

    def submit(self, batches: Generator[B, None, None], run: Callable[[B], list[R]], *, wait: bool = True) -> Future[list[R]]:
        """Return the results of `run` on every batch, in order; wait, unless told not to, while `WAITING` calls wait to begin.

        batches: preparing one is iterating; closed in the end. From a callback of a future, or from within `batches`, it never
        waits, as calls begin only when that returns.

        Raises `EdgeError` where `close` was called, or no thread can be started.
        """
        future: Future[list[R]] = Future()
        with self._begun:
            self._begun.wait_for(lambda: not wait or len(self._waiting) < WAITING or self._in_our_thread())
            self._waiting.add(future)
        try:
            self._running.submit(int)  # so that its thread is there when the first batch is
            self._preparing.submit(self._prepare, future, batches, run)
        except BaseException as error:
            future.cancel()  # where no thread could be started, the call is queued all the same
            self._leave(future)
            if isinstance(error, RuntimeError):
                raise EdgeError(f"nothing more can be submitted ({error}): open the model again") from error
            raise
        return future

    def close(self) -> None:
        """Finish what was submitted, then end both threads; called in one of them, return before that."""
        wait = not self._in_our_thread()
        self._preparing.shutdown(wait)
        self._running.shutdown(wait)

    def _pool(self, name: str) -> ThreadPoolExecutor:
        # Without a reference to this object, or a thread would keep alive what it is to end with.
        return ThreadPoolExecutor(1, f"mingle-edge-{name}", partial(setattr, self._threads, "ours", True))

    def _in_our_thread(self) -> bool:
        return getattr(self._threads, "ours", False)

    def _leave(self, future: Future[list[R]]) -> None:
        with self._begun:
            self._waiting.discard(future)
            self._begun.notify()

    def _prepare(self, future: Future[list[R]], batches: Generator[B, None, None], run: Callable[[B], list[R]]) -> None:
        self._leave(future)
        if not future.set_running_or_notify_cancel():
            return
        parts: list[Future[list[R]]] = []
        failure: BaseException | None = None
        while not any(part.done() and part.exception() for part in parts[-_IN_WORK:]):
            self._in_work.acquire()
            try:
                parts.append(self._hand_over(self._step, run, next(batches)))
            except StopIteration:
                self._in_work.release()
                break
            except BaseException as error:  # whatever an image or an application's iterator raises belongs to its future
                self._in_work.release()
                failure = error
                break
        try:
            batches.close()
        except BaseException as error:
            failure = failure or error
        self._hand_over(_finish, future, parts, failure)

    def _hand_over(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        try:
            return self._running.submit(call, *arguments)
        except RuntimeError:  # the interpreter ends, though it waits for this thread, or a callback closed the model
            future: Future[T] = Future()
            try:
                future.set_result(call(*arguments))
            except BaseException as error:
                future.set_exception(error)
            return future

    def _step(self, run: Callable[[B], list[R]], batch: B) -> list[R]:
        try:
            return run(batch)
        finally:
            self._in_work.release()


def _finish(future: Future[list[R]], parts: list[Future[list[R]]], failure: BaseException | None) -> None:
    try:
        results = [result for part in parts for result in part.result()]
        if failure is not None:
            raise failure
    except BaseException as error:  # handed over to whoever asks for the result
        future.set_exception(error)
    else:
        future.set_result(results)
