"""A connection of uvicorn that waits forever neither for the head of a request, nor for a client that reads nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mingle_edge_server.inference.limits import Limits


class TimedConnection(H11Protocol):
    """Closes a connection whose client is slower than `limits` allow; for a request's body the application waits."""

    limits: Limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._timers = dict[str, asyncio.TimerHandle]()
        self._wait("head", self.limits.header_seconds, self._close_without_head)

    def data_received(self, data: bytes) -> None:
        """Go on waiting where a head has begun: its first byte ends uvicorn's own wait between requests."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait("head", self.limits.header_seconds, self._close_without_head)
        else:
            self._stop_waiting("head")

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._wait("reading", self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no more: the client has read."""
        self._stop_waiting("reading")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting("head")
        self._stop_waiting("reading")
        super().connection_lost(exc)

    def _wait(self, what: str, seconds: float, too_late: Callable[[], None]) -> None:
        if what not in self._timers:
            self._timers[what] = self.loop.call_later(seconds, too_late)

    def _stop_waiting(self, what: str) -> None:
        if timer := self._timers.pop(what, None):
            timer.cancel()

    def _close_without_head(self) -> None:
        self._stop_waiting("head")
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def timed_connection(limits: Limits) -> type[TimedConnection]:
    """Return a class of connections with these limits; uvicorn makes one for each client."""
    return type("TimedConnection", (TimedConnection,), {"limits": limits})
