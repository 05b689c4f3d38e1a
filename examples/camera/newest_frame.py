"""The hand-over between a camera and a model that may be slower: the newest frame wins, and what it replaces was dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple


class Frame(NamedTuple):
    """One frame, and when it was there."""

    number: int
    image: Any
    captured: float
    """seconds, of `time.monotonic`"""


class NewestFrame:
    """Frames of a source, taken by a thread of their own."""

    def __init__(self, source: Iterable[Any], every: bool) -> None:
        """Begin to take frames. every: let the source wait until each frame was taken, instead of dropping it."""
        self._source, self._every = source, every
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._ended = False
        self._error: BaseException | None = None
        self.captured = 0
        self.dropped = 0
        threading.Thread(target=self._capture, name="camera", daemon=True).start()

    def take(self) -> Frame | None:
        """Return the newest frame, and wait for one that was not taken yet; None once there are no more.

        Raises what the source raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def stop(self) -> None:
        """Take no more frames; whoever waits in `take` gets None. Safe to call from a signal's handler in another thread."""
        with self._changed:
            self._ended, self._frame = True, None
            self._changed.notify_all()

    def _capture(self) -> None:
        try:
            for image in self._source:
                with self._changed:
                    if self._every:
                        self._changed.wait_for(lambda: self._frame is None or self._ended)
                    if self._ended:
                        return
                    self.captured += 1
                    self.dropped += self._frame is not None
                    self._frame = Frame(self.captured, image, time.monotonic())
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
