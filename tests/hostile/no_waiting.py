"""An end to tests that would otherwise wait forever where the mend is gone. Shared by several."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def no_waiting(seconds: int = 20) -> Iterator[None]:
    """Raise `AssertionError` in the block if it takes that long: it waits for something that never comes."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
