"""How much of the machine's memory and time clients may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mingle_edge_server.errors import LimitsError


@dataclass(frozen=True)
class Limits:
    """Limits of the server; a request beyond one is answered with an error at once.

    Raises `LimitsError` where one is not positive.
    """

    queue: int = 32
    """requests that are accepted at a time, from their headers to their answer; a further one gets status 503"""
    request_bytes: int = 16 << 20
    """of a request's body, also once uncompressed; more get status 413; those of `queue` requests may be in memory"""
    images: int = 32
    """of one request; more get status 413"""
    pixels: int = 50_000_000
    """of one image, which takes 3 to 8 bytes each while it is decoded"""
    body_seconds: float = 30
    """that a client may take to send a request's body; status 408"""
    header_seconds: float = 10
    """that a client may take to send the head of a request before its connection is closed"""
    connections: int = 512
    """open at a time; further ones get status 503"""
    stop_seconds: float = 10
    """that accepted requests have to finish once the server stops"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int,) if field.type == "int" else (int, float)
            if not isinstance(value, kinds) or isinstance(value, bool) or not value > 0:
                raise LimitsError(f"the limit {field.name} is {value!r}, must be a number above 0")
