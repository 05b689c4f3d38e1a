"""A connection of uvicorn that waits forever neither for the head of a request, nor for a client that reads nothing."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mingle_edge_server.inference.limits import Limits


class TimedConnection(H11Protocol):
    """Closes a connection whose client is slower than `limits` allow; for a request's body the application waits."""

    limits: Limits
    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._head = self.loop.call_later(self.limits.header_seconds, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Go on waiting where a head has begun: its first byte ends uvicorn's own wait between requests."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head = _stopped(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(self.limits.header_seconds, self._too_late)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no more: the client has read."""
        self._reading = _stopped(self._reading)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._head, self._reading = _stopped(self._head), _stopped(self._reading)
        super().connection_lost(exc)

    def _too_late(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def timed_connection(limits: Limits) -> type[TimedConnection]:
    """Return a class of connections with these limits; uvicorn makes one for each client."""
    return type("TimedConnection", (TimedConnection,), {"limits": limits})


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
