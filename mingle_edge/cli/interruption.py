"""Being asked to end: by Ctrl-C, by SIGTERM as from a service manager, by SIGHUP as from a terminal that goes away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """A signal that does what Ctrl-C does: what is being written is cleaned up, what is finished stays."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` within the block for signals that would end the process on the spot.

    Those that are handled or ignored already stay so, as in `nohup`. Python takes signals in its main thread alone.
    """
    ours = threading.current_thread() is threading.main_thread()
    taken = [number for number in _SIGNALS if ours and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def if_interrupted(state: Callable[[], str]) -> Iterator[None]:
    """Let an interruption within the block be told with what is true then, such as `nothing was written; start again`.

    state: asked once, when everything within the block was cleaned up.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(state())
        raise


def told(interruption: KeyboardInterrupt) -> str:
    """Return the line that says how a command was ended, and what is true now."""
    how = "terminated" if isinstance(interruption, Terminated) else "\ninterrupted"  # behind the terminal's ^C
    return f"{how}; {'; '.join(getattr(interruption, '__notes__', ())) or 'nothing was written'}"


def exit_code(interruption: KeyboardInterrupt) -> int:
    """Return what shells report of a process that the signal ended."""
    cause: BaseException | None = interruption
    while cause is not None and not isinstance(cause, Terminated):
        cause = cause.__cause__
    return 128 + (cause.number if cause is not None else signal.SIGINT)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would cut the cleaning up short
    raise Terminated(number)
