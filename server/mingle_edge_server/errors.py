"""The one error tree of the server. Every message names the thing, the rule, the value and the next step."""

from __future__ import annotations

from collections.abc import Mapping


class ServerError(Exception):
    """Base of everything the server raises on purpose."""


class AddressError(ServerError):
    """The server cannot listen where it was asked to."""


class LimitsError(ServerError):
    """A limit, a model's name or a host's name cannot be what it was set to."""


class RequestError(ServerError):
    """A request is answered with an error; the client reads the message."""

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None, **members: object) -> None:
        """Answer with an HTTP status and `{"error": message}`, with `members` beside it."""
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.members = members
